"""Files into the page cache before they are asked for."""

"""How the embedded model was made: data, tokenizer, training, export and proof, from one seed."""

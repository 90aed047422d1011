"""Writes the generated pages of docs/ and the files of RunPod's Hub."""

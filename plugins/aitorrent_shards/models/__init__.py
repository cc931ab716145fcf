"""A model's files on this node, read without torch: folder, tensors, tokenizer, template, text."""

"""The coordinator's side of one answer: a prompt is journalled, sampled and streamed out."""

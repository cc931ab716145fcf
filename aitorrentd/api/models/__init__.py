"""Types for models and answers that plugins share."""

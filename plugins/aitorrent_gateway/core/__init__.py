"""What every dialect of the gateway needs: bodies, fields, models, answers, errors."""

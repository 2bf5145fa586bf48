"""Recipe -> run: a trained model and its records. Must not know plots or reports."""

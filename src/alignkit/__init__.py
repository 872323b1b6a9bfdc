"""alignkit: fine-tune, align and evaluate language models on the Hugging Face stack from one typed recipe."""

__version__ = "0.1.0"

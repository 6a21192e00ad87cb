"""CoCa (Contrastive Captioner) as a first-class Hugging Face transformers model."""

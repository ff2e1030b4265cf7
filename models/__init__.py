"""The Deep Generative Mixture Model: ResNet encoder, VAE3 decoder, Gaussian-mixture prior, and what joins them."""

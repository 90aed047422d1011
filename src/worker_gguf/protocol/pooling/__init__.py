"""The routes of models that make vectors of texts or rank them: embeddings, rerank, score."""

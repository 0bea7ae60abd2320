"""Embedding: encoder, patch grids → one vector per image, scores and a map."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from selfie_pipeline.pipelines.embed.nodes import embed_samples, score_embeddings
from selfie_pipeline.report.embedding_map import draw_embedding_map


def create_pipeline() -> Pipeline:
    """Build the pipeline."""
    return pipeline(
        [
            node(
                embed_samples,
                inputs=[
                    "encoder",
                    "usable_samples",
                    "patch_grids",
                    "params:patch",
                    "params:augmentation",
                    "params:embed",
                    "params:compute",
                ],
                outputs="embeddings",
                name="embed_samples",
            ),
            node(
                score_embeddings,
                inputs=["embeddings", "encoder", "patch_grids", "params:embed"],
                outputs="embedding_scores",
                name="score_embeddings",
            ),
            node(
                draw_embedding_map,
                inputs=["embeddings", "params:embed.map", "params:embed.points"],
                outputs="embedding_map",
                name="draw_map",
            ),
        ]
    )

"""The one training loop: the recipe of a run, the LightningModule, its ranks, checkpoints and logs."""

"""Validation at the end of a run, however seldom it was asked for."""

from lightning.pytorch import Callback, LightningModule, Trainer


class LastEpochValidated(Callback):
    """Lets the last epoch be validated where the trainer's ``check_val_every_n_epoch`` would leave it out."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether this is the last epoch; the trainer reads its setting when the epoch ends."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

"""Pixels -> probabilities: backbones, augmentation, the model folder. Must not know training, metrics or plots."""

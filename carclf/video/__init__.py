"""Clip -> frames -> cars over time, one answer per car. Must not know training, reports or the command line."""

# ruff: noqa: F401 - the names below are for users

from carclf.video.frames import Clip, VideoError, clips_in, is_clip, list_clips
from carclf.video.predict import best_crops, predict_video, score_all, score_video

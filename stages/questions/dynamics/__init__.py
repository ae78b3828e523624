"""The question `dynamics`: when in pretraining invariance appears, and when attributes go."""

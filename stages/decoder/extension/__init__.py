"""Extensions: new taps for a finished decoder, whose U-Net stays as it is."""

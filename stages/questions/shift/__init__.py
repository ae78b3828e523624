"""The question `shift`: whether what holds of images like the train images holds of others too."""

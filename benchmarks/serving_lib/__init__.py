"""Parts of the serving benchmark."""

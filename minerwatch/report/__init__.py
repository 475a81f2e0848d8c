"""Publishing: metrics, HTTP, logs. Nothing here acts."""

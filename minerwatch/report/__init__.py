"""What is published: metrics, HTTP, logs. It never acts."""

"""The cluster: pods, owners, Events. Nothing here changes a pod."""

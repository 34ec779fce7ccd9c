"""What ingress and worker both stand on; it imports none of the other rooms."""

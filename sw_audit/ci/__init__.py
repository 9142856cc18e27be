"""What the GitHub Action and the GitLab component run: the audit as a job, and the comment that tells of it."""

"""What every service needs: serving, errors, authentication, storage, tasks and time."""

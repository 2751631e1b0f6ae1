"""An export on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from vlrft.export.source import ExportError


def check_token(repo: str) -> str:
    """The token to upload with. Raises ExportError without one, before anything is computed."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise ExportError(f"--push {repo}: no token of the hub; log in with 'hf auth login', or set HF_TOKEN")
    return token


def push(folder: Path, repo: str, token: str) -> str:
    """Upload everything in `folder`, making the repository where there is none; returns the address.

    Raises ExportError when the hub refuses or cannot be reached: the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        api.create_repo(repo, exist_ok=True)
        commit = api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Upload model")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ExportError(
            f"--push {repo}: not uploaded: {error}. The export itself is in {folder}; "
            f"upload it with: hf upload {repo} {folder}"
        ) from error
    return str(commit)

"""The data block of a recipe, and the base of every block. No torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

OutputMode = Literal["think", "direct", "answer_then_think", "adaptive"]


class Block(BaseModel):
    """Base of every block: unknown keys are errors, field docstrings are the documentation."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, validate_default=True, validate_assignment=True
    )


class RowsConfig(Block):
    """Where rows come from."""

    format: str = "auto"
    """`auto` = told by what is there; `native`; `coco`, `voc` = published detection files; `shapes`, `synthetic` =
    generated scenes; a layout of another framework (`trl`, `easyr1`, ...) or a form of published files ('vlrft data
    ls')."""
    path: str | None = None
    """File or folder, relative to `data.root`; or a dataset of the hub, hf://org/name."""
    split: str | None = None
    """Name of the split (VOC: ImageSets/Main/<split>.txt); of a folder of files, how their names start."""
    images: str | None = None
    """Folder of the images and videos, relative to `data.root`; None = the format's own default."""
    task: str | None = None
    """Name in the TASKS table, or `module:attr`, for rows that state none; None = `data.task`."""
    classes: list[str] | None = None
    """Keep only these class names; None = all."""
    instances: Literal["error", "skip", "largest"] = "skip"
    """Single-box tasks: what to do with an image that does not hold exactly one instance of the asked class."""
    limit: int | None = Field(None, gt=0)
    """Use the first n rows only."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the form, or of generated scenes (`synthetic`: with `generator: NAME`); of rows: `answer_style`,
    `space`, `names`."""


class MixtureEntry(RowsConfig):
    """One source of a mixture."""

    name: str | None = Field(None, pattern=r"^[\w.-]+$")
    """Starts the ids of its samples (`name/id`); None = the path's last name without suffix, or the format."""
    weight: float | None = Field(None, gt=0.0)
    """Its share of the drawn prompts, relative to the other entries'; None (for all entries) = by number of samples."""


class SourceConfig(RowsConfig):
    """Rows of one split: one source, or a mixture of several."""

    mixture: list[MixtureEntry] = Field(default_factory=list)
    """Several sources together, instead of the keys above. A plain list of sources means the same."""

    @model_validator(mode="before")
    @classmethod
    def _list_is_mixture(cls, value: Any) -> Any:
        return {"mixture": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        said = [name for name, field in RowsConfig.model_fields.items() if getattr(self, name) != _default(field)]
        if self.mixture and said:
            raise PydanticCustomError(
                "source", "Has a mixture and {key}: say it in the entries, or set mixture to []", {"key": said[0]}
            )
        weighted = [entry.weight is not None for entry in self.mixture]
        if any(weighted) and not all(weighted):
            raise PydanticCustomError(
                "source", "Some entries of the mixture have a weight: give one to all, or to none"
            )
        return self


def _default(field: Any) -> Any:
    return field.get_default(call_default_factory=True)


class VideoConfig(Block):
    """Which frames of a video are shown, at which size, and who decodes them."""

    decoder: str = "pyav"
    """`pyav`, `decord` or `torchcodec`, or `module:attr` of one's own; the frames are the same with each."""
    fps: float = Field(2.0, gt=0.0)
    """Frames shown per second of video, within the two limits below."""
    num_frames: int | None = Field(None, gt=0)
    """Show this many, evenly spaced, whatever the length; None = by `fps`. An odd number goes up to the next even one,
    and a video of fewer frames shows what it has."""
    min_frames: int = Field(4, gt=0)
    """Odd limits move inwards to even ones: frames are shown in pairs."""
    max_frames: int = Field(768, ge=2)
    """Goes before `min_frames`."""
    min_pixels: int | None = Field(None, gt=0)
    """Pixel budget of one frame; None = the model's usual one."""
    max_pixels: int | None = Field(None, gt=0)
    total_pixels: int | None = Field(None, gt=0)
    """Pixel budget of all frames of one video together; None = the model's usual one."""
    timeout_s: float = Field(60.0, gt=0.0)
    """Longest time that one video may take to decode; then it counts as unreadable."""
    memory_mb: int = Field(4096, gt=0)
    """Most memory that the decoding of one video may take."""
    workers: int = Field(1, ge=1)
    """Decoding processes."""
    ahead_mb: int = Field(2048, gt=0)
    """Most memory in MiB of clips that are decoded before their turn; that of one sample is exceeded, if it must be."""
    cache_dir: str | None = None
    """Keep decoded clips in this folder; None = do not."""
    cache_gb: float = Field(10.0, gt=0.0)
    """Size of that folder; the least recently used clips go first."""


class DataConfig(Block):
    """Rows, task, media and prompt limits."""

    root: str = "."
    """Every relative path in the data block starts here."""
    task: str = "grounding"
    """Name in the TASKS table, or `module:attr`."""
    train: SourceConfig = Field(default_factory=SourceConfig)
    eval: SourceConfig | None = None
    min_pixels: int | None = Field(None, gt=0)
    """Pixel budget of one image; None = the processor's own."""
    max_pixels: int | None = Field(None, gt=0)
    video: VideoConfig = Field(default_factory=VideoConfig)
    resize: tuple[int, int] | None = None
    """Resize every image to (width, height) before the processor; None = as stored."""
    max_prompt_length: int = Field(4096, gt=0)
    """Tokens, media included. A longer prompt is an error or a counted skip, never cut."""
    check_images: int = Field(2000, ge=0)
    """Decode the images of this many rows of each split before the run starts (of rows with videos only the headers
    are read); the rest is decoded when its turn comes."""
    check_videos: int = Field(0, ge=0)
    """Decode the media of this many rows with videos of each split before the run starts, by all `video.workers`."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """Unreadable image, bad box, over-long prompt: stop before compute is spent, or skip, count and list."""
    output_mode: OutputMode = "think"
    prompt_template: str | dict[str, str] | None = None
    """Name of a shipped template, jinja text with `question`, `format_hint`, `space`, or path of a .jinja file; where
    tasks differ, a mapping from task to one of these; None = the task's own."""

    def task_names(self) -> list[str]:
        """Every task that the block or one of its sources names; rows may state others."""
        sources = [source for source in (self.train, self.eval) if source is not None]
        named = [row.task for source in sources for row in (source, *source.mixture)]
        return list(dict.fromkeys([self.task, *(task for task in named if task is not None)]))

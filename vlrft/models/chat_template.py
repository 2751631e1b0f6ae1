"""ChatML, which the Qwen-VL and InternVL models were trained on, as a Jinja template for models built offline."""

import json

_CHATML = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type == 'text' -%}{{ part.text }}
{%- elif part.type == 'image' -%}{{ IMAGE }}
{%- elif part.type == 'video' -%}{{ VIDEO }}
{%- else -%}{{ raise_exception('the type of a message part must be text, image or video, got ' ~ part.type) }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ render(message.content) ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def chat_template(*, image: str, video: str) -> str:
    """Messages -> text, `image` or `video` in place of a media item; no system turn unless one is given."""
    return _CHATML.replace("IMAGE", json.dumps(image)).replace("VIDEO", json.dumps(video))

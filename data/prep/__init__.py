"""Readers of published annotation files. Each yields plain rows of the native layout for the tasks.

A form is the layout in which one benchmark or paper publishes its annotations. Its reader is
`rows(path, *, split, images, quarantine, **options) -> Iterator[(where, native row)]`: `path` is the published file or
folder, `split` the name of a split or None, `images` the folder of the media or None for the form's own default,
`quarantine` collects what is left out, and `where` names file and entry for messages. By what a published file is told
where nobody names its form, signs.py says.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One entry of FORMS."""

    reader: str
    """`package.module:attr` of the reader, imported when the form is used."""
    seen: bool
    """True: tested on rows of the published file itself; False: written from its documentation."""
    about: str
    """One line: what is published so, and the task that its rows are for."""


FORMS: dict[str, Form] = {
    "coco": Form(
        reader="vlrft.data.prep.detection_forms:coco_rows",
        seen=False,
        about="COCO instances JSON -> detection, with the source's task grounding one box",
    ),
    "odinw": Form(
        reader="vlrft.data.prep.detection_forms:odinw_rows",
        seen=False,
        about="one set of ODinW, COCO JSON beside the pictures of each split -> detection",
    ),
    "lvis": Form(
        reader="vlrft.data.prep.lvis:rows",
        seen=False,
        about="LVIS v0.5 and v1 JSON, classes verified per image -> detection",
    ),
    "voc": Form(
        reader="vlrft.data.prep.detection_forms:voc_rows",
        seen=True,
        about="Pascal VOC folders -> detection, with the source's task grounding one box",
    ),
    "refcoco": Form(
        reader="vlrft.data.prep.refcoco:rows",
        seen=False,
        about="RefCOCO, + and g: REFER pickles with instances.json, tables of hubs -> grounding",
    ),
    "lisa": Form(
        reader="vlrft.data.prep.reason_seg:rows",
        seen=False,
        about="ReasonSeg of LISA, a JSON with polygons per picture -> reasoning_grounding",
    ),
    "screenspot": Form(
        reader="vlrft.data.prep.screenspot:rows",
        seen=False,
        about="ScreenSpot JSON, boxes as x, y, width, height -> gui_grounding",
    ),
    "screenspot-v2": Form(
        reader="vlrft.data.prep.screenspot:rows",
        seen=False,
        about="ScreenSpot-v2 JSON, boxes as x, y, width, height -> gui_grounding",
    ),
    "screenspot-pro": Form(
        reader="vlrft.data.prep.screenspot:pro_rows",
        seen=False,
        about="ScreenSpot-Pro JSON, boxes as two corners -> gui_grounding",
    ),
    "gui-r1": Form(
        reader="vlrft.data.prep.gui_r1:rows",
        seen=False,
        about="GUI-R1 parquet or JSON, gt_bbox in fractions -> gui_action",
    ),
    "androidcontrol": Form(
        reader="vlrft.data.prep.androidcontrol:rows",
        seen=True,
        about="AndroidControl as UI-R1 publishes it, JSON -> gui_action",
    ),
    "vlm-r1-gui": Form(
        reader="vlrft.data.prep.vlm_r1_gui:rows",
        seen=True,
        about="VLM-R1's GUI defects, screenshots before and after -> classification",
    ),
    "got-10k": Form(
        reader="vlrft.data.prep.got10k:rows",
        seen=False,
        about="GOT-10k sequences with groundtruth.txt -> tracking",
    ),
    "few-shot": Form(
        reader="vlrft.data.prep.few_shot:rows",
        seen=False,
        about="the eleven few-shot sets (split_zhou_*.json), class folders -> classification",
    ),
    "charades-sta": Form(
        reader="vlrft.data.prep.charades_sta:rows",
        seen=True,
        about="Charades-STA, JSON (seen) or txt with `durations` -> temporal_grounding",
    ),
    "activitynet": Form(
        reader="vlrft.data.prep.activitynet:rows",
        seen=True,
        about="ActivityNet Captions JSON -> temporal_grounding",
    ),
    "next-gqa": Form(
        reader="vlrft.data.prep.next_gqa:rows",
        seen=True,
        about="NExT-GQA, VideoChat-R1's JSON (seen) or csv with gsub JSON -> grounded_video_qa",
    ),
    "video-r1": Form(
        reader="vlrft.data.prep.video_r1:rows",
        seen=False,
        about="Video-R1's JSON, five types of questions -> video_qa",
    ),
    "videorft": Form(
        reader="vlrft.data.prep.video_r1:rows",
        seen=False,
        about="VideoRFT's JSON, as Video-R1's with the options in the question -> video_qa",
    ),
    "vqa-rad": Form(
        reader="vlrft.data.prep.vqa_rad:rows",
        seen=False,
        about="VQA-RAD JSON and the parquet form of hubs -> medical_qa",
    ),
    "slake": Form(
        reader="vlrft.data.prep.slake:rows",
        seen=False,
        about="SLAKE JSON, English and Chinese -> medical_qa",
    ),
    "path-vqa": Form(
        reader="vlrft.data.prep.path_vqa:rows",
        seen=False,
        about="PathVQA pickles and the parquet form of hubs -> medical_qa",
    ),
    "omni-med-vqa": Form(
        reader="vlrft.data.prep.omni_med_vqa:rows",
        seen=False,
        about="OmniMedVQA, a JSON per source set -> medical_qa",
    ),
    "clevr-math": Form(
        reader="vlrft.data.prep.clevr_counting:rows",
        seen=False,
        about="CLEVR-Math tables, the authors' JSON and Reason-RFT's form -> counting",
    ),
    "superclevr": Form(
        reader="vlrft.data.prep.clevr_counting:rows",
        seen=True,
        about="R1-V's SuperCLEVR counting -> counting",
    ),
    "geo-qa": Form(
        reader="vlrft.data.prep.geo_qa:rows",
        seen=True,
        about="R1-V's GeoQA -> math",
    ),
    "geo170k": Form(
        reader="vlrft.data.prep.geo_qa:rows",
        seen=False,
        about="Geo170K dialogues with worded solutions -> choice",
    ),
    "geometry3k": Form(
        reader="vlrft.data.prep.geometry3k:rows",
        seen=False,
        about="Geometry3K folders -> choice, EasyR1's parquet table of it -> math",
    ),
    "trance": Form(
        reader="vlrft.data.prep.trance:rows",
        seen=False,
        about="TRANCE in Reason-RFT's form, both views -> spatial_transformation",
    ),
    "chart-code": Form(
        reader="vlrft.data.prep.chart_code:rows",
        seen=False,
        about="ChartMimic and ReachQA style pairs of chart and program -> chart_to_code",
    ),
    "vlmevalkit": Form(
        reader="vlrft.data.prep.vlmevalkit:rows",
        seen=False,
        about="VLMEvalKit's TSV benchmarks, pictures in base64 -> choice, open_qa",
    ),
}
"""Names of forms, as `vlrft data convert` and `data.train.format` take them."""

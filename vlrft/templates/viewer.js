"use strict";
// Rollouts: every text of the run goes through text nodes, never through markup.
(() => {
  const PAGE = 8;
  // Low to high reward; no green, which is the true box's.
  const scale = [[250, 190, 35], [240, 100, 65], [195, 45, 150], [75, 75, 240]];
  const rewards = run.groups.flatMap((g) => g.rollouts.map((r) => r.reward)).filter((v) => v !== null);
  const range = rewards.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const order = new Map();
  for (const group of run.groups) {
    if (!order.has(group.stage)) order.set(group.stage, run.stages.findIndex((s) => s.name === group.stage));
    const known = group.rollouts.map((r) => r.reward).filter((v) => v !== null);
    group.spread = known.length ? Math.max(...known) - Math.min(...known) : 0;
    group.words = [group.id, group.question, ...group.rollouts.flatMap((r) => [r.text, ...r.flags])].join("\n").toLowerCase();
  }

  function tone(reward) {
    if (reward === null) return "var(--faint)";
    const share = range[1] > range[0] ? (reward - range[0]) / (range[1] - range[0]) : 1;
    const stop = Math.min(Math.floor(share * (scale.length - 1)), scale.length - 2);
    const part = share * (scale.length - 1) - stop;
    return `rgb(${scale[stop].map((v, i) => Math.round(v + part * (scale[stop + 1][i] - v))).join(" ")})`;
  }

  function box([x1, y1, x2, y2], name) {
    const shape = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
    return make("rect", { ...shape, class: name });
  }

  // The picture with an overlay in pixels of the original image: the true boxes, then whatever the caller adds.
  function frame(group, index, shapes) {
    const image = group.images[index];
    const [width, height] = group.size && index === 0 ? group.size : [4, 3];
    const holder = make("div", { class: "frame", style: `aspect-ratio: ${width} / ${height}` });
    const uri = image && image.key !== null ? run.images[image.key] : null;
    if (uri) {
      const picture = make("img", { src: uri, alt: image.name });
      if (index > 0) picture.addEventListener("load", () => { holder.style.aspectRatio = `${picture.naturalWidth} / ${picture.naturalHeight}`; });
      if (uri.startsWith("data:image/png")) picture.className = "pixels";
      holder.append(picture);
    } else {
      holder.append(make("div", { class: "missing" }, image ? `no picture: ${image.name}` : "no picture"));
    }
    if (index > 0 || !group.size) return holder;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
    for (const found of group.truth) svg.append(box(found, "truth"));
    svg.append(...shapes);
    holder.append(svg);
    return holder;
  }

  function rolloutRow(rollout, focus) {
    const score = make("div", { class: "score", style: `--tone: ${tone(rollout.reward)}` }, make("b", {}, compact(rollout.reward)));
    if (rollout.advantage !== null) score.append(make("small", { title: "advantage" }, `A ${rollout.advantage >= 0 ? "+" : ""}${rollout.advantage.toFixed(2)}`));
    const marks = make("div", { class: "marks" });
    for (const flag of rollout.flags) marks.append(make("span", { class: "flag" }, flag));
    if (rollout.truncated) marks.append(make("span", { class: "flag" }, "truncated"));
    for (const [name, value] of Object.entries(rollout.parts)) marks.append(make("span", {}, `${name} ${compact(value)}`));
    marks.append(make("span", {}, `${rollout.tokens} tokens`), make("span", {}, `#${rollout.i}`));
    if (rollout.version !== null) marks.append(make("span", { title: "optimiser steps behind these weights" }, `policy v${rollout.version}`));
    const body = make("div", {}, make("div", { class: "text" }, rollout.text || "(empty)"), marks);
    const row = make("div", { class: "roll", tabindex: 0 }, score, body);
    row.addEventListener("mouseenter", () => focus(rollout.i));
    row.addEventListener("mouseleave", () => focus(null));
    row.addEventListener("focus", () => focus(rollout.i));
    row.addEventListener("blur", () => focus(null));
    return row;
  }

  function groupCard(group) {
    const shapes = [...group.rollouts].reverse().flatMap((r) => r.boxes.map((found) => {
      const shape = box(found, "pred");
      shape.dataset.i = r.i;
      shape.style.stroke = tone(r.reward);
      return shape;
    }));
    const pictures = make("div", { class: "pictures" }, ...(group.images.length ? group.images : [null]).map((_, i) => frame(group, i, shapes)));
    const svg = pictures.querySelector("svg");
    let pinned = null;
    const focus = (hovered) => {
      const chosen = hovered ?? pinned;
      if (!svg) return;
      svg.classList.toggle("focus", chosen !== null);
      for (const shape of shapes) {
        shape.classList.toggle("on", Number(shape.dataset.i) === chosen);
        if (Number(shape.dataset.i) === chosen) svg.append(shape);
      }
    };
    const rows = group.rollouts.map((r) => rolloutRow(r, focus));
    rows.forEach((row, k) => {
      const pin = () => {
        pinned = pinned === group.rollouts[k].i ? null : group.rollouts[k].i;
        rows.forEach((other, j) => other.classList.toggle("pinned", group.rollouts[j].i === pinned));
        focus(null);
      };
      row.addEventListener("click", () => { if (!String(window.getSelection())) pin(); });
      row.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        pin();
      });
    });
    const head = make("div", {}, make("span", { class: "tag" }, `${group.stage} ${group.kind === "eval" ? "held-out, " : ""}step ${group.step}`), make("span", { class: "id" }, group.id));
    const target = make("p", { class: "target", title: group.meta }, "target ", make("code", {}, group.target), ` · answers in ${group.space}`);
    if (group.total > group.rollouts.length) target.append(` · ${group.rollouts.length} of ${group.total} completions shown`);
    const side = make("div", {}, head, make("p", { class: "question" }, group.question), target, ...rows);
    return make("article", { class: "card group" }, pictures, side);
  }

  function gallery() {
    const first = new Map(), last = new Map();
    const evals = run.groups.filter((g) => g.kind === "eval" && g.rollouts.length).sort(chronological);
    for (const group of evals) {
      if (!first.has(group.id)) first.set(group.id, group);
      last.set(group.id, group);
    }
    const shots = [...first.values()].filter((g) => last.get(g.id) !== g && g.images.length);
    document.getElementById("gallery-section").hidden = !shots.length;
    for (const start of shots) {
      const end = last.get(start.id);
      const shapes = [
        ...start.rollouts[0].boxes.map((found) => box(found, "start")),
        ...end.rollouts[0].boxes.map((found) => box(found, "end")),
      ];
      const [was, is] = [start, end].map((g) => g.rollouts[0].reward?.toFixed(2) ?? "–");
      const caption = make("div", { class: "cap", title: start.question }, make("span", {}, start.id), make("b", { title: "reward" }, `${was} → ${is}`));
      document.getElementById("gallery").append(make("div", { class: "shot" }, frame(start, 0, shapes), caption));
    }
  }

  function chronological(a, b) {
    return order.get(a.stage) - order.get(b.stage) || a.step - b.step || a.kind.localeCompare(b.kind);
  }

  gallery();
  if (!run.groups.length) return;
  const form = document.getElementById("filters");
  const list = document.getElementById("groups");
  const more = document.getElementById("more");
  let matching = [];
  let shown = 0;

  function fill(select, values) {
    for (const value of values) select.append(make("option", { value }, String(value)));
  }

  function grow() {
    list.append(...matching.slice(shown, shown + PAGE).map(groupCard));
    shown = Math.min(shown + PAGE, matching.length);
    more.hidden = shown === matching.length;
    document.getElementById("count").textContent = `showing ${shown} of ${matching.length} groups` + (matching.length < run.groups.length ? ` that match, of ${run.groups.length}` : "");
  }

  function apply() {
    const wish = Object.fromEntries(new FormData(form));
    const least = wish.min === "" ? -Infinity : Number(wish.min), most = wish.max === "" ? Infinity : Number(wish.max);
    const limited = least > -Infinity || most < Infinity;
    matching = run.groups.filter((g) =>
      (!wish.kind || g.kind === wish.kind) && (!wish.stage || g.stage === wish.stage) && (!wish.step || String(g.step) === wish.step)
      && (!limited || g.rollouts.some((r) => r.reward !== null && r.reward >= least && r.reward <= most))
      && g.words.includes(wish.text.toLowerCase()));
    const orders = { late: (a, b) => chronological(b, a), early: chronological, spread: (a, b) => b.spread - a.spread };
    matching.sort(orders[wish.order]);
    list.replaceChildren();
    shown = 0;
    grow();
    if (!matching.length) list.append(make("p", { class: "empty" }, "No group matches these filters."));
  }

  fill(form.elements.stage, order.keys());
  fill(form.elements.step, [...new Set(run.groups.map((g) => g.step))].sort((a, b) => a - b));
  document.getElementById("scale-low").textContent = rewards.length ? compact(range[0]) : "";
  document.getElementById("scale-high").textContent = rewards.length ? compact(range[1]) : "";
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  apply();
})();

"use strict";
// Shared by both scripts: the run's data, element making without markup strings, and the theme.
const run = JSON.parse(document.getElementById("data").textContent);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function compact(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  return Math.abs(value) < 10 ? value.toFixed(3) : value.toFixed(1);
}

(() => {
  const palettes = {
    light: ["#4657d8", "#d9730d", "#0f8a6d", "#b4369f", "#8a6d00", "#2b8cc4", "#c2352b", "#5d6673"],
    dark: ["#8b98ff", "#ffa657", "#43c9a6", "#e78bd6", "#e3c14b", "#6cc4f5", "#ff7b72", "#a2abb9"],
  };
  const root = document.documentElement;
  const prefers = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = [];

  function theme() {
    return root.dataset.theme === "dark" ? "dark" : "light";
  }

  function css(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function faded(hex, alpha) {
    return hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  }

  function traces(chart) {
    const palette = palettes[theme()];
    return chart.series.flatMap((series, i) => {
      const colour = palette[i % palette.length];
      const few = series.y.filter((v) => v !== null).length < 12;
      const base = {
        x: series.x, name: series.name, type: "scatter", visible: chart.on[i],
        hovertemplate: `%{y:.4~g}<extra>${series.name.replace(/[<>&]/g, "")}</extra>`,
      };
      if (chart.stack && series.x.length === 1) return [{ ...base, y: series.y, type: "bar", width: 0.2, marker: { color: colour } }];
      if (chart.stack) return [{ ...base, y: series.y, stackgroup: "all", mode: "lines", line: { width: 0.5, color: colour }, fillcolor: faded(colour, 0.75) }];
      const line = { color: series.smooth ? faded(colour, 0.28) : colour, width: series.smooth ? 1 : 2 };
      const raw = { ...base, y: series.y, mode: few ? "lines+markers" : "lines", line, marker: { size: 6, color: colour } };
      if (!series.smooth) return [raw];
      return [{ ...raw, hoverinfo: "skip", hovertemplate: null }, { ...base, y: series.smooth, mode: "lines", line: { color: colour, width: 2.4 } }];
    });
  }

  function layout(chart) {
    const line = css("--line");
    const axis = { gridcolor: line, linecolor: line, zeroline: false, tickfont: { size: 11 }, fixedrange: true, automargin: true };
    const marks = chart.marks || [];
    const known = chart.series.flatMap((s) => s.y).filter((v) => v !== null);
    const least = Math.min(...known), most = Math.max(...known);
    const last = Math.max(...chart.series[0].x);
    const fromZero = chart.stack || (least >= 0 && (least < most / 2 || least === most));
    return {
      height: chart.height, barmode: "stack", margin: { l: 44, r: 12, t: 14, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: css("--soft"), size: 12 }, showlegend: false,
      hovermode: "x unified", hoverlabel: { bgcolor: css("--card"), bordercolor: line, font: { color: css("--ink"), size: 12 } },
      xaxis: { ...axis, showgrid: false, dtick: last - chart.series[0].x[0] < 8 ? 1 : undefined, title: { text: chart.x, font: { size: 11 }, standoff: 4 } },
      yaxis: { ...axis, rangemode: fromZero ? "tozero" : "normal", nticks: 6 },
      shapes: marks.map((m) => ({ type: "line", x0: m.x, x1: m.x, yref: "paper", y0: 0, y1: 1, line: { color: css("--faint"), width: 1, dash: "dot" } })),
      annotations: marks.map((m) => ({ x: m.x, y: 1, yref: "paper", text: m.label.replace(/[<>&]/g, ""), showarrow: false, xanchor: "left", yanchor: "top", xshift: 5, font: { color: css("--faint"), size: 12 } })),
    };
  }

  function paint(entry) {
    Plotly.react(entry.plot, traces(entry.chart), layout(entry.chart), { displayModeBar: false, responsive: true });
  }

  function chips(entry) {
    const box = make("div", { class: "chips" });
    entry.chart.series.forEach((series, i) => {
      const dot = make("i");
      const chip = make("button", { type: "button", class: "chip", title: "show or hide" }, dot, series.name);
      const colour = () => {
        chip.setAttribute("aria-pressed", entry.chart.on[i]);
        dot.style.background = entry.chart.on[i] ? palettes[theme()][i % palettes.light.length] : "";
      };
      chip.addEventListener("click", () => {
        entry.chart.on[i] = !entry.chart.on[i];
        colour();
        paint(entry);
      });
      entry.colours.push(colour);
      colour();
      box.append(chip);
    });
    return box;
  }

  // `shown` says how many of the series are on at first; a series that is `off` is not.
  function draw(holder, spec, height, shown = Infinity) {
    const chart = { ...spec, height, on: spec.series.map((series, i) => i < shown && !series.off) };
    const entry = { chart, plot: make("div"), colours: [] };
    const title = make("h3", {}, chart.title, make("small", {}, chart.note));
    const head = make("div", { class: "chart-head" }, title);
    if (chart.series.length > 1) head.append(chips(entry));
    holder.append(head, entry.plot);
    drawn.push(entry);
    paint(entry);
  }

  function openStage(index) {
    const panel = document.querySelector(`.stage[data-stage="${index}"]`);
    document.querySelectorAll(".stage").forEach((other) => { other.hidden = other !== panel; });
    document.querySelectorAll("#stage-tabs button").forEach((tab) => tab.setAttribute("aria-selected", tab.dataset.stage === String(index)));
    if (panel.dataset.drawn) return;
    panel.dataset.drawn = "yes";
    const stage = run.stages[index];
    const holder = (name) => panel.querySelector(`[data-chart="${name}"]`);
    if (stage.reward) draw(holder("reward"), stage.reward, 320, 1 + Math.min(3, stage.reward.series.length - 1));
    for (const chart of stage.small) {
      const card = make("div", { class: "card" });
      holder("small").append(card);
      draw(card, chart, 200);
    }
    if (stage.timing) draw(holder("timing"), stage.timing, 300);
  }

  function setTheme(name) {
    root.dataset.theme = name;
    for (const entry of drawn) {
      entry.colours.forEach((colour) => colour());
      paint(entry);
    }
  }

  setTheme(prefers.matches ? "dark" : "light");
  prefers.addEventListener("change", () => setTheme(prefers.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
  if (run.eval) draw(document.getElementById("eval-chart"), run.eval, 290);
  document.querySelectorAll("#stage-tabs button").forEach((tab) => tab.addEventListener("click", () => openStage(tab.dataset.stage)));
  if (run.stages.length) openStage(run.stages.length - 1);
})();

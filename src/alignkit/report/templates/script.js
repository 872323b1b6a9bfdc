"use strict";
(() => {
  const root = document.documentElement;
  const stored = (value) => {  // a file opened from a locked-down place may have no storage
    try {
      if (value) localStorage.setItem("alignkit-theme", value);
      return localStorage.getItem("alignkit-theme");
    } catch { return null; }
  };
  if (stored()) root.dataset.theme = stored();

  const themeButton = () => {
    const button = document.getElementById("theme");
    const isDark = () => root.dataset.theme
      ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      stored(root.dataset.theme);
      label();
    });
    label();
    button.hidden = false;
  };

  const copyButtons = () => {
    if (!navigator.clipboard) return;
    for (const box of document.querySelectorAll(".code")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(box.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      });
      box.append(button);
    }
  };

  // The values nearest the pointer, for every line of a chart.
  const tooltips = () => {
    for (const plot of document.querySelectorAll(".plot[data-lines]")) {
      const lines = JSON.parse(plot.dataset.lines);
      const [low, high] = JSON.parse(plot.dataset.x);
      const tip = document.createElement("div");
      tip.className = "tip";
      tip.hidden = true;
      tip.append(document.createElement("span"));
      plot.append(tip);
      const steps = lines.flatMap((line) => line.x);
      plot.addEventListener("pointermove", (event) => {
        const box = plot.getBoundingClientRect();
        const wanted = low + (high - low) * (event.clientX - box.left) / box.width;
        const step = steps.reduce((best, x) => Math.abs(x - wanted) < Math.abs(best - wanted) ? x : best);
        const at = 100 * (step - low) / (high - low);
        const values = lines.filter((line) => line.x.includes(step)).map((line) => {
          const value = line.y[line.x.indexOf(step)];
          return `${line.name}  ${value === null ? "not finite" : value.toPrecision(4)}`;
        });
        tip.firstChild.textContent = [`step ${step.toLocaleString("en")}`, ...values].join("\n");
        tip.style.left = `${at}%`;
        tip.classList.toggle("left", at > 50);
        tip.hidden = false;
      });
      plot.addEventListener("pointerleave", () => { tip.hidden = true; });
    }
  };

  const samples = (place) => {
    const form = place.querySelector("form");
    const body = place.querySelector("tbody");
    const rows = [...body.rows].map((row) => ({
      row, number: Number(row.dataset.number), task: row.dataset.task, tags: row.dataset.tags.split(" "),
      texts: [...row.querySelectorAll(".text")].map((text) => text.textContent),
      all: row.textContent.toLowerCase(),
    }));
    const rank = (item) => item.tags.includes("wrong") ? 0 : item.tags.includes("right") ? 2 : 1;
    const compare = (order) => (one, two) => {
      if (order === "verdict") return rank(one) - rank(two) || one.number - two.number;
      const column = Number(order);
      if (order === "number" || Number.isNaN(column)) return one.number - two.number;
      if (order.startsWith("-")) return two.texts[-column - 1].length - one.texts[-column - 1].length;
      return one.texts[column].localeCompare(two.texts[column], "en", { numeric: true });
    };
    const value = (name) => form.elements[name] ? form.elements[name].value : "";
    const update = () => {
      const words = form.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const item of rows) {
        const keep = words.every((word) => item.all.includes(word))
          && (!value("task") || item.task === value("task")) && (!value("tag") || item.tags.includes(value("tag")));
        item.row.hidden = !keep;
        item.row.style.display = keep ? "" : "none";
        shown += keep;
      }
      form.querySelector("output").textContent = `${shown} of ${rows.length}`;
    };
    form.elements.order.addEventListener("change", () => {
      body.append(...[...rows].sort(compare(value("order"))).map((item) => item.row));
    });
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    update();
  };

  // Paper has no folds: open them for printing, and close again those that were closed.
  const printing = () => {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")];
      for (const fold of opened) fold.open = true;
    });
    addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
  };

  document.addEventListener("DOMContentLoaded", () => {
    themeButton();
    copyButtons();
    tooltips();
    document.querySelectorAll(".samples").forEach(samples);
    printing();
  });
})();

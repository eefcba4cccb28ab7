"use strict";
// The slider of the samples, the numbers under the pointer, and buttons that copy. The page does without.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  const player = document.querySelector(".player");
  const frames = all(".timeline .frame");
  if (frames.length) frames[frames.length - 1].classList.add("current");
  if (player) {
    const slider = player.querySelector("input");
    const play = player.querySelector("[data-play]");
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    };
    const show = (index) => {
      frames.forEach((frame, i) => frame.classList.toggle("current", i === index));
      slider.value = index;
      slider.setAttribute("aria-valuetext", frames[index].dataset.when);
      const [back, forth] = all("[data-go]", player);
      back.setAttribute("aria-disabled", index === 0);
      forth.setAttribute("aria-disabled", index === frames.length - 1);
    };
    const step = (by) => show(Math.min(frames.length - 1, Math.max(0, Number(slider.value) + by)));
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    all("[data-go]", player).forEach((button) =>
      button.addEventListener("click", () => { stop(); step(Number(button.dataset.go)); }));
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (Number(slider.value) === frames.length - 1) show(0);
      play.textContent = "Pause";
      timer = setInterval(() => {
        step(1);
        if (Number(slider.value) === frames.length - 1) stop();
      }, 700);
    });
    show(frames.length - 1);
    player.hidden = false;
  }

  for (const chart of all(".chart")) {
    const rows = all("tr[data-x]", chart).map((row) => ({
      x: Number(row.dataset.x),
      head: row.querySelector("th").textContent,
      cells: all("td", row).map((cell) => ({
        y: cell.dataset.y === undefined ? null : Number(cell.dataset.y),
        text: cell.textContent,
      })),
    }));
    const names = all("thead th", chart).slice(1).map((cell) => cell.textContent);
    const plot = chart.querySelector(".plot");
    const readout = chart.querySelector(".readout");
    const cursor = document.createElement("div");
    const line = document.createElement("i");
    const dots = names.map((_, i) => Object.assign(document.createElement("i"), { className: `dot s${i}` }));
    cursor.className = "cursor";
    line.className = "hair";
    cursor.append(line, ...dots);
    cursor.tabIndex = 0;
    const say = (name, value) => cursor.setAttribute(name, value);
    say("role", "slider");
    say("aria-label", `${chart.querySelector("h3").textContent}, epoch by epoch`);
    say("aria-valuemin", 0);
    say("aria-valuemax", rows.length - 1);
    const hint = "Point at the curve, or focus it and press the arrow keys, to read its numbers.";
    let at = rows.length - 1;
    const words = (row) =>
      `epoch ${row.head}: ` + row.cells.map((cell, i) => (cell.text ? `${names[i]} ${cell.text}` : "")).filter(Boolean).join(", ");
    const describe = () => { say("aria-valuenow", at); say("aria-valuetext", words(rows[at])); };
    const show = (index) => {
      at = Math.min(rows.length - 1, Math.max(0, index));
      const row = rows[at];
      line.style.left = `${row.x / 10}%`;
      dots.forEach((dot, i) => {
        dot.hidden = row.cells[i].y === null;
        dot.style.left = `${row.x / 10}%`;
        dot.style.top = `${row.cells[i].y / 10}%`;
      });
      cursor.classList.add("on");
      readout.textContent = words(row);
      describe();
    };
    const leave = () => {
      if (document.activeElement === cursor) return;
      cursor.classList.remove("on");
      readout.textContent = hint;
    };
    cursor.addEventListener("pointermove", (event) => {
      const box = cursor.getBoundingClientRect();
      const x = (1000 * (event.clientX - box.left)) / box.width;
      let nearest = 0;
      rows.forEach((row, i) => { if (Math.abs(row.x - x) < Math.abs(rows[nearest].x - x)) nearest = i; });
      show(nearest);
    });
    cursor.addEventListener("pointerleave", leave);
    cursor.addEventListener("focus", () => show(at));
    cursor.addEventListener("blur", leave);
    cursor.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(rows.length / 10));
      const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far, Home: -rows.length, End: rows.length };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      show(at + moves[event.key]);
    });
    plot.append(cursor);
    readout.hidden = false;
    readout.textContent = hint;
    describe();
  }

  // Without scripts, the shadows of style.css say that a box scrolls.
  for (const box of all(".scroll")) {
    const note = document.createElement("p");
    note.className = "sideways";
    note.setAttribute("aria-hidden", "true");  // the box has a name, and the keyboard reaches it
    note.textContent = "There is more to the right: scroll sideways \u2192";
    const update = () => { note.hidden = box.scrollWidth <= box.clientWidth + 1; };
    new ResizeObserver(update).observe(box);
    update();
    box.before(note);
  }

  for (const box of all("pre")) {
    if (!navigator.clipboard || !window.isSecureContext) break;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${box.textContent}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(box.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.after(button);
  }
})();

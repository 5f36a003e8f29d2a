"use strict";
(() => {
  const slider = document.getElementById("slider");
  const play = document.getElementById("play");
  const readout = document.getElementById("readout");
  const readouts = JSON.parse(document.getElementById("readouts").textContent);
  const stage = [...document.querySelectorAll(".stage img")];
  const rows = [...document.querySelectorAll(".row")].map((row) => [...row.querySelectorAll("li")]);
  const charts = [...document.querySelectorAll(".chart svg")].map((svg) => ({
    svg,
    x: svg.dataset.x.split(" ").map(Number),
    y: svg.dataset.y.split(" ").map(Number),
    cursor: svg.querySelector(".cursor"),
    dot: svg.querySelector(".dot"),
  }));
  const last = readouts.length - 1;
  let timer = 0;

  function show(frame) {
    slider.value = frame;
    slider.setAttribute("aria-valuetext", readouts[frame]);
    readout.textContent = readouts[frame];
    stage.forEach((image, path) => { image.src = rows[path][frame].firstElementChild.src; });
    rows.forEach((row) => row.forEach((item, i) => item.classList.toggle("now", i === frame)));
    for (const { x, y, cursor, dot } of charts) {
      cursor.setAttribute("x1", x[frame]);
      cursor.setAttribute("x2", x[frame]);
      dot.setAttribute("cx", x[frame]);
      dot.setAttribute("cy", y[frame]);
    }
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.setAttribute("aria-pressed", "false");
    play.setAttribute("aria-label", "Play");
  }

  // there and back, two and a half seconds each way, a rest at the ends
  function start() {
    let frame = 0;
    let step = 1;
    let rest = 0;
    const period = Math.max(40, 2500 / (last + 1));
    show(frame);
    play.setAttribute("aria-pressed", "true");
    play.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      if (rest > 0) { rest -= period; return; }
      frame += step;
      show(frame);
      if (frame === 0 || frame === last) { step = -step; rest = 500; }
    }, period);
  }

  function choose(frame) {
    stop();
    show(frame);
  }

  slider.addEventListener("input", () => choose(Number(slider.value)));
  play.addEventListener("click", () => (timer ? stop() : start()));
  rows.forEach((row) => row.forEach((item, i) => item.addEventListener("click", () => choose(i))));
  for (const { svg, x } of charts) {
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const gaps = x.map((value) => Math.abs(value - at));
      choose(gaps.indexOf(Math.min(...gaps)));
    };
    svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); point(event); });
    svg.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
  }
  show(Math.floor((last + 1) / 2));
})();

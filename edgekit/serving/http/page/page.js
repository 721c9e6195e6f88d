"use strict";

const RATE = 16000;
const MOST_WAITING = RATE * 2 * 5; // bytes that wait to be sent: five seconds
const facts = document.documentElement.dataset;
const at = (id) => document.getElementById(id);
const dash = "–";
let token = facts.token;
let open = null; // {socket, close}: what is shown now

function say(state) {
  at("state").textContent = state;
}

function complain(problem) {
  at("error").textContent = problem;
  at("error").hidden = !problem;
}

function protocols() {
  if (!token) return [facts.subprotocol];
  const coded = btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return [facts.subprotocol, facts.bearer + coded];
}

function connect(path) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}${path}`, protocols());
  socket.binaryType = "arraybuffer";
  return socket;
}

function show(id, value, unit = "") {
  at(id).textContent = value === null || value === undefined ? dash : `${value}${unit}`;
}

function partial(text, stable) {
  at("stable").textContent = text.slice(0, stable);
  at("unstable").textContent = text.slice(stable);
}

const told = {
  opened(message) {
    at("model").textContent = message.model;
    say("Listening.");
  },
  speech_started() {
    say("Somebody speaks.");
  },
  speech_stopped() {
    say("Listening.");
  },
  provisional(message) {
    const stable = at("stable").textContent; // it may be withdrawn: no more of it stands than before
    partial(message.text, message.text.startsWith(stable) ? stable.length : 0);
  },
  withdrawn() {
    say("Somebody speaks.");
  },
  text(message) {
    if (!message.final) {
      // `stable` counts characters as Python does, a string of JavaScript's units of 16 bits
      const stable = Array.from(message.text).slice(0, message.stable).join("").length;
      partial(message.text, stable);
      return;
    }
    partial("", 0);
    if (message.text) {
      const line = document.createElement("p");
      line.textContent = message.text;
      at("text").append(line);
      at("text").scrollTop = at("text").scrollHeight;
    }
  },
  level_changed(message) {
    show("level", message.level);
  },
  lag(message) {
    complain(`${message.dropped_samples} samples were lost: this machine does not keep up.`);
  },
  status(message) {
    const stream = message.stream;
    show("busy", Math.round(message.busy * 100), " %");
    show("streams", `${message.streams} of ${message.most_streams}`);
    if (!stream) return;
    show("level", stream.level);
    show("lag", stream.behind_s.toFixed(2), " s");
    show("speech", Math.round(stream.speech_probability * 100), " %");
    if (open && open.watching) at("meter").value = -60 + 60 * stream.speech_probability;
    for (const kind of ["provisional", "decided", "final"]) {
      const one = stream.latencies[kind];
      show(`${kind}-p50`, one.p50_ms);
      show(`${kind}-p95`, one.p95_ms);
      show(`${kind}-n`, one.count);
    }
  },
  error(message) {
    complain(refusal(message));
  },
  ended(message) {
    if (message.error) complain(message.error);
  },
};

function refusal(message) {
  const reasons = {
    streams: "All streams of this server are taken. Try again when one ends.",
    late: "This server is busy and would answer late. Try again in a moment.",
    loading: "The model is still being loaded. Try again in a moment.",
    stopping: "The server stops. Try again when it is back.",
  };
  return reasons[message.reason] ? `${reasons[message.reason]} (${message.error})` : message.error;
}

function hear(socket, end) {
  socket.onmessage = (frame) => {
    if (typeof frame.data !== "string") return; // spoken answers are not played here
    const message = JSON.parse(frame.data);
    if (told[message.event]) told[message.event](message);
  };
  socket.onclose = (closed) => {
    if (closed.code === 1006 && !open?.ending) {
      complain(
        facts.asks ? "No connection: the server is gone, or the token is not its own." : "No connection: the server is gone, or it was started anew. Load this page again."
      );
      if (facts.asks) askToken();
    }
    end();
  };
}

function microphoneProblem(error) {
  const problems = {
    NotAllowedError: "The microphone was denied. Allow it for this page in the browser’s settings.",
    NotFoundError: "No microphone is connected.",
    NotReadableError: "Another program holds the microphone.",
    OverconstrainedError: "This microphone cannot be used.",
  };
  return problems[error.name] || `The microphone cannot be used: ${error.message}`;
}

// The rate that the server works at, or this machine's own where a browser does not resample: the server does it then.
async function opened(media) {
  for (const settings of [{ sampleRate: RATE }, {}]) {
    const context = new AudioContext(settings);
    try {
      const source = context.createMediaStreamSource(media);
      await context.audioWorklet.addModule("/page/sender.js");
      return { context, source };
    } catch (error) {
      await context.close();
      if (!settings.sampleRate) throw error;
    }
  }
}

async function talk() {
  if (!navigator.mediaDevices) {
    complain("This browser gives a microphone to pages from this machine or over https alone.");
    return;
  }
  let media, context, source;
  try {
    media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: false } });
    ({ context, source } = await opened(media));
  } catch (error) {
    if (media) media.getTracks().forEach((track) => track.stop());
    complain(microphoneProblem(error));
    return;
  }
  const socket = connect(`/v1/listen?sample_rate_hz=${context.sampleRate}&partials=true&status=true`);
  const close = () => {
    media.getTracks().forEach((track) => track.stop());
    if (context.state !== "closed") context.close();
  };
  begin("talk", { socket, close });
  hear(socket, () => finish("talk"));
  const sender = new AudioWorkletNode(context, "sender");
  sender.port.onmessage = ({ data }) => {
    at("meter").value = Math.max(-60, data.level);
    if (socket.readyState !== WebSocket.OPEN || !open || open.ending) return;
    if (socket.bufferedAmount > MOST_WAITING) {
      complain("The server takes the sound too slowly; some of it was left out.");
      return;
    }
    socket.send(data.samples);
  };
  source.connect(sender);
}

function watch() {
  const socket = connect("/v1/watch");
  begin("watch", { socket, close: () => {}, watching: true });
  at("meter-label").textContent = "Probability of speech";
  socket.onopen = () => say("The server listens.");
  hear(socket, () => finish("watch"));
}

function begin(button, opened) {
  complain("");
  open = opened;
  say("Connecting.");
  at("meter-label").textContent = "Level";
  for (const id of ["talk", "watch"]) at(id).disabled = id !== button;
  at(button).setAttribute("aria-pressed", "true");
}

function finish(button) {
  if (!open) return;
  open.close();
  open = null;
  at(button).setAttribute("aria-pressed", "false");
  for (const id of ["talk", "watch"]) at(id).disabled = false;
  at("meter").value = -60;
  partial("", 0);
  say("Nothing is heard.");
}

function pressed(start) {
  if (!open) {
    start();
    return;
  }
  if (open.ending || open.watching || open.socket.readyState !== WebSocket.OPEN) {
    open.ending = true;
    open.socket.close();
    return;
  }
  open.ending = true; // what was said is heard to its end
  open.close();
  say("Finishing.");
  open.socket.send(JSON.stringify({ type: "finish" }));
}

function askToken() {
  at("token-form").hidden = false;
  at("buttons").hidden = true;
  at("token").focus();
}

at("talk").onclick = () => pressed(talk);
at("watch").onclick = () => pressed(watch);
at("clear").onclick = () => at("text").replaceChildren();
at("token-form").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value;
  at("token-form").hidden = true;
  at("buttons").hidden = false;
  complain("");
};
at("watch").hidden = !facts.watches;
if (facts.asks) askToken();

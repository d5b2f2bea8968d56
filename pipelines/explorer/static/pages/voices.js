import {doing, dropZone, el, field, say, select} from "/static/app.js";

const TITLES = {original: "Original", reconstruction: "Reconstruction", conversion: "Conversion"};
const READABLE = /\.(wav|flac|ogg|mp3|aif|aiff)$/i;  // what the server reads itself

export default async function mount(root, api) {
  document.head.append(el("link", {rel: "stylesheet", href: "/static/pages/voices.css"}));
  const about = await api.call("about");
  const spoken = select(about.voices, about.voices[0]);
  const other = select(about.voices, about.voices.at(-1));
  const others = new Map(Object.entries(about.others).map(([name, classes]) => [name, select(classes, classes[0])]));
  const seed = el("input", {type: "number", value: "0", min: "0", max: String(2 ** 53 - 1)});
  spoken.id = "voices-spoken";
  other.id = "voices-other";
  const record = el("button", {type: "button", id: "voices-record", onclick: () => doing(() => recorder ? finish() : begin())}, "Record");
  const draw = about.draws ? el("button", {type: "button", id: "voices-draw", onclick: () => doing(() => take(null, "drawn by the prior"))}, "Let the run speak") : null;
  const held = el("input", {type: "number", id: "voices-held", value: "0", min: "0"});
  const again = el("button", {class: "key", disabled: true}, "Decode again");
  const place = el("p", {class: "dim", role: "status", id: "voices-place"});
  const panels = new Map(Object.entries(TITLES).map(([version, title]) => [version, panel(title)]));
  let recorder = null, file = null, number = null, name = null, running = null;

  root.append(
    dropZone(`Speech of up to ${about.longest} s: drop a file here, or choose one`, "audio/*,.wav,.flac,.ogg,.mp3,.aif,.aiff",
      (chosen) => doing(async () => take(await api.upload(await readable(chosen)), chosen.name))),
    el("form", {class: "panel row voices-form", onsubmit: (event) => { event.preventDefault(); doing(run); }},
      record, draw, field("held-out recording", el("span", {class: "joined"}, held,
        el("button", {type: "button", onclick: () => doing(() => take(null, `held-out recording ${held.value}`, Number(held.value)))}, "Open"))),
      field(`reconstructed as ${about.label}`, spoken), field(`converted to ${about.label}`, other),
      ...[...others].map(([label, control]) => field(label, control)), field("seed", seed), again),
    place, el("div", {class: "voices"}, ...[...panels.values()].map((own) => own.root)));
  for (const control of [spoken, other, ...others.values()]) control.addEventListener("change", () => name && doing(run));

  function panel(title) {
    const voice = el("span", {class: "dim"});
    const audio = el("audio", {controls: true, hidden: true, "aria-label": title});
    const image = el("img", {class: "smooth", hidden: true, alt: `spectrogram of the ${title.toLowerCase()}`});
    const scale = el("figcaption", {});
    return {voice, audio, image, scale, root: el("section", {class: "panel voice", id: `voices-${title.toLowerCase()}`},
      el("h3", {}, title, " ", voice), audio, el("figure", {}, image, scale))};
  }

  function take(upload, words, place = null) {
    file = upload;
    number = place;
    name = words;
    again.disabled = false;
    return run();
  }

  async function run() {
    running?.abort();
    const own = running = new AbortController();
    for (const {audio, image, voice, scale} of panels.values()) {
      audio.pause();
      audio.hidden = image.hidden = true;
      voice.textContent = scale.textContent = "";
    }
    place.textContent = file === null && number === null ? "drawing ..." : "reading ...";
    try {
      await api.stream("hear", {
        file, number, spoken: spoken.value, other: other.value, seed: Number(seed.value),
        labels: Object.fromEntries([...others].map(([label, control]) => [label, control.value])),
      }, (found) => {
        const {audio, image, voice, scale} = panels.get(found.version);
        audio.src = found.audio;
        image.src = found.image;
        audio.hidden = image.hidden = false;
        voice.textContent = found.voice === null ? name : `as ${found.voice}`;
        if (found.version === "reconstruction") spoken.value = found.voice;
        scale.textContent = `${found.seconds.toFixed(2)} s to the right, ${found.khz} kHz upwards`;
        place.textContent = found.version === "conversion" ? "" : "decoding sample by sample ...";
      }, own.signal);
    } finally {
      if (running === own && place.textContent.endsWith("...")) place.textContent = "";
    }
  }

  async function begin() {
    if (!navigator.mediaDevices) throw new Error("Record: this browser gives no microphone to the page.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({audio: true});
    } catch (error) {
      throw new Error(`Record: expected a microphone that this page may use, found none (${error.message}).`);
    }
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      clearTimeout(recorder.limit);
      stream.getTracks().forEach((track) => track.stop());
      recorder = null;
      record.textContent = "Record";
      record.classList.remove("recording");
      doing(async () => take(await api.upload(await asWav(new Blob(parts), "recording")), "recorded"));
    });
    recorder.limit = setTimeout(finish, 1000 * about.longest - 500);
    recorder.start();
    record.textContent = "Stop";
    record.classList.add("recording");
    say("");
  }

  function finish() {
    recorder?.stop();
  }

  // A file that the server reads, or the same sound as one: what else the browser plays, it decodes itself.
  const readable = (chosen) => READABLE.test(chosen.name) ? chosen : asWav(chosen, chosen.name);

  async function asWav(blob, from) {
    let sound;
    try {
      sound = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(await blob.arrayBuffer());
    } catch {
      throw new Error(`${from}: expected a sound, found something else.`);
    }
    return new File([wav(sound)], "recording.wav");
  }
}

// An AudioBuffer -> the bytes of a WAV file: one channel, the mean of all, in 16 bits.
function wav(sound) {
  const count = sound.length, view = new DataView(new ArrayBuffer(44 + 2 * count));
  const text = (at, word) => [...word].forEach((letter, place) => view.setUint8(at + place, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);  // PCM
  view.setUint16(22, 1, true);
  view.setUint32(24, sound.sampleRate, true);
  view.setUint32(28, 2 * sound.sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * count, true);
  const channels = [...Array(sound.numberOfChannels).keys()].map((number) => sound.getChannelData(number));
  for (let at = 0; at < count; at += 1) {
    const mean = channels.reduce((sum, channel) => sum + channel[at], 0) / channels.length;
    view.setInt16(44 + 2 * at, Math.max(-32768, Math.min(32767, Math.round(32768 * mean))), true);
  }
  return view.buffer;
}

// Runs beside the sound: hands over samples as 16 bits, 40 ms at once, with the level of each piece in decibels.
class Sender extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(640);
    this.filled = 0;
    this.energy = 0;
  }

  process(inputs) {
    const samples = inputs[0][0];
    if (!samples) return true;
    for (const sample of samples) {
      this.energy += sample * sample;
      this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.filled === this.piece.length) {
        const level = 10 * Math.log10(this.energy / this.piece.length + 1e-9);
        this.port.postMessage({ samples: this.piece.buffer, level }, [this.piece.buffer]);
        this.piece = new Int16Array(640);
        this.filled = 0;
        this.energy = 0;
      }
    }
    return true;
  }
}

registerProcessor("sender", Sender);

/** A pyramid of maxima over a column that only grows: which step in [a, b) holds most? Peaks are never averaged. */
export class MaxPyramid {
  /** @param {Uint32Array} values @param {number} n */
  constructor(values, n) {
    this.values = values;
    this.n = n;
    /** levels[k][i]: index of the largest value among [i << k, (i + 1) << k) */
    this.levels = [];
    let below = null;
    for (let size = n >> 1; size > 0; size >>= 1) {
      const level = new Uint32Array(size);
      for (let i = 0; i < size; i++) {
        const l = below ? below[2 * i] : 2 * i;
        const r = below ? below[2 * i + 1] : 2 * i + 1;
        level[i] = values[r] > values[l] ? r : l;
      }
      this.levels.push(level);
      below = level;
    }
  }

  /** Index of the first largest value in [a, b); a when the range is empty. @param {number} a @param {number} b */
  argmax(a, b) {
    b = Math.min(b, this.n);
    let best = a;
    const take = (i) => {
      const better = this.values[i] > this.values[best];
      if (better || (this.values[i] === this.values[best] && i < best)) best = i;
    };
    while (a < b) {
      let k = 0; // the largest aligned block that starts at a and ends by b
      while ((a & ((2 << k) - 1)) === 0 && a + (2 << k) <= b && k < this.levels.length) k++;
      take(k === 0 ? a : this.levels[k - 1][a >> k]);
      a += 1 << k;
    }
    return best;
  }
}

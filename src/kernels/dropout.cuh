// out = drop(x), or out += drop(x); a thread has four channels, the words of one Philox4x32-10 block. See ops/dropout.rs.

#ifndef PHILOX
#define PHILOX
__device__ inline void philox(u32 counter[4], u32 key0, u32 key1) {
  for (int round = 0; round < 10; round++) {
    u64 a = (u64)0xD2511F53u * counter[0], b = (u64)0xCD9E8D57u * counter[2];
    u32 c0 = (u32)(b >> 32) ^ counter[1] ^ key0, c2 = (u32)(a >> 32) ^ counter[3] ^ key1;
    counter[0] = c0, counter[1] = (u32)b, counter[2] = c2, counter[3] = (u32)a;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
}
#endif

KERNEL(dropout)(T *out, const T *x, const u32 *origins, u64 n, int c, float p, u32 key0, u32 key1, u32 step, int add) {
  int quads = (c + 3) / 4;
  u64 i = element();
  if (i >= n * quads) return;
  u64 token = i / quads;
  u32 words[4] = {(u32)(i % quads), origins[2 * token + 1], origins[2 * token], step};
  philox(words, key0, key1);
  float keep = 1.0f / (1.0f - p);
  for (int w = 0; w < 4; w++) {
    int channel = i % quads * 4 + w;
    if (channel >= c) return;
    u64 at = token * c + channel;
    float m = (words[w] >> 8) * (1.0f / 16777216.0f) < p ? 0.0f : keep;
    narrow((add ? widen(out[at]) : 0.0f) + widen(x[at]) * m, out[at]);
  }
}

// out = drop(x), or out += drop(x); a thread has eight channels, the halves of the words of one Philox4x32-10 counter. See ops/dropout.rs.

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

KERNEL(dropout)(T *out, const T *x, const u32 *origins, u64 n, int c, u32 least, float scale, u32 key0, u32 key1, u32 step, int add) {
  int groups = (c + 7) / 8;
  u64 i = element();
  if (i >= n * groups) return;
  u64 token = i / groups;
  u32 words[4] = {(u32)(i % groups), origins[2 * token + 1], origins[2 * token], step};
  philox(words, key0, key1);
  for (int h = 0; h < 8; h++) {
    int channel = i % groups * 8 + h;
    if (channel >= c) return;
    u64 at = token * c + channel;
    float m = (words[h / 2] >> 16 * (h % 2) & 0xffffu) < least ? 0.0f : scale;
    narrow((add ? widen(out[at]) : 0.0f) + widen(x[at]) * m, out[at]);
  }
}

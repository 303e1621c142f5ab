// NF4 to T, eight elements a thread: the codebook's entry times the scale of the block of 64. See quant/nf4.rs.
//
// With `codes` the scales are nested: map[code]·absmax[block / 256] + offset. A tensor's last bytes may be fewer than four.

#ifndef NF4_CODEBOOK
#define NF4_CODEBOOK
__device__ __constant__ float nf4_codebook[16] = {
    -1.0f, -0.69619280099868774f, -0.52507305145263672f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.091050036251544952f, 0.0f,
    0.079580299556255341f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.56261700391769409f, 0.72295683622360229f, 1.0f};
#endif

KERNEL(nf4_dequantize)(T *out, const u8 *packed, const float *absmax, const u8 *codes, const float *map, float offset, u64 n) {
  u64 first = element() * 8;
  if (first >= n) return;
  u64 block = first / 64;
  float scale = codes ? map[codes[block]] * absmax[block / 256] + offset : absmax[block];
  for (int i = 0; i < 8 && first + i < n; i++) {
    u8 byte = packed[(first + i) / 2];
    narrow(nf4_codebook[i % 2 ? byte & 15 : byte >> 4] * scale, out[first + i]);
  }
}

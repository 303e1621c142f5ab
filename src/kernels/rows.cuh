// Whole rows and single elements: look-up, gather and scatter, rounding, sums.

// y[i] = table[ids[i]], (n, c).
KERNEL(gather)(T *y, const T *table, const u32 *ids, u64 n, int c) {
  u64 i = element();
  if (i < n * c) y[i] = table[(u64)ids[i / c] * c + i % c];
}

// y[rows[i]] = x[i]; the rows are distinct.
KERNEL(scatter)(T *y, const T *x, const u32 *rows, u64 n, int c) {
  u64 i = element();
  if (i < n * c) y[(u64)rows[i / c] * c + i % c] = x[i];
}

// y[i] = table[ids[i]], (n, c), in f32: the table may be narrower than what is made of it.
KERNEL(gather_wide)(float *y, const T *table, const u32 *ids, u64 n, int c) {
  u64 i = element();
  if (i < n * c) y[i] = widen(table[(u64)ids[i / c] * c + i % c]);
}

// An f32 value as an operand of products.
KERNEL(operand)(T *to, const float *from, u64 n) {
  u64 i = element();
  if (i < n) narrow(from[i], to[i]);
}

// y += x.
KERNEL(add)(T *y, const T *x, u64 n) {
  u64 i = element();
  if (i < n) narrow(widen(y[i]) + widen(x[i]), y[i]);
}

// y += b along each row.
KERNEL(add_bias)(T *y, const float *b, u64 n, int c) {
  u64 i = element();
  if (i < n * c) narrow(widen(y[i]) + b[i % c], y[i]);
}

// AdamW and Adam over the arena. See optim/adamw.rs.
//
// `scale` undoes the loss scale and clips; `copy` holds the parameters as operands of products where these are not f32.

KERNEL(adamw)(float *p, T *copy, const float *g, float *m, float *v, u64 n, float scale, float step_size, float root2,
              float decay, float c1, float c2, float b2, float eps, float l2) {
  u64 i = element();
  if (i >= n) return;
  float grad = g[i] * scale + l2 * p[i];
  float first = m[i] + (grad - m[i]) * c1, second = v[i] * b2 + c2 * grad * grad;
  float value = p[i] * decay - step_size * first / (sqrtf(second) / root2 + eps);
  m[i] = first, v[i] = second, p[i] = value;
  if (copy) narrow(value, copy[i]);
}

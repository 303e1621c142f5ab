// SGD over the arena. See optim/sgd.rs.
//
// `buffer` is the momentum, or none; at the first step it becomes the gradient itself.

KERNEL(sgd)(float *p, T *copy, const float *g, float *buffer, u64 n, float scale, float lr, float l2, float momentum,
            float fresh, int nesterov) {
  u64 i = element();
  if (i >= n) return;
  float grad = g[i] * scale + l2 * p[i];
  if (buffer) {
    float mean = buffer[i] * momentum + fresh * grad;
    buffer[i] = mean;
    grad = nesterov ? grad + momentum * mean : mean;
  }
  float value = p[i] - lr * grad;
  p[i] = value;
  if (copy) narrow(value, copy[i]);
}

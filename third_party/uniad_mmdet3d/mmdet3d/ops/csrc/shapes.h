// Sizes that kernels are handed, one struct per operator.
#pragma once

#include <cstdint>

#include "bilinear.h"

// Multi-scale deformable attention: B batch, S keys of all levels, M heads, D channels of a head, Q queries, L levels,
// P points.
struct AttentionSizes {
  int64_t batch, keys, heads, channels, queries, levels, points;
};

// Sampling for modulated deformable convolution: N images, C channels in G offset groups, H x W in, A x E out,
// K = kernel height x kernel width taps.
struct SamplingSizes {
  int64_t images, channels, groups, height, width, out_height, out_width;
  int64_t kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;

  SHARED_CODE int64_t taps() const { return kernel_height * kernel_width; }
  SHARED_CODE int64_t out_area() const { return out_height * out_width; }
  SHARED_CODE int64_t area() const { return height * width; }
};

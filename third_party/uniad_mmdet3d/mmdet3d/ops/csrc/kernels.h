// What each device implements. All tensors are contiguous and of one floating type; spatial_shapes and level_starts are
// int64. Layouts:
//   value [B, S, M, D], spatial_shapes [L, 2] (height, width), level_starts [L], locations [B, Q, M, L, P, 2] (x, y in units of
//   the level's size), weights [B, Q, M, L, P], out [B, Q, M * D]
//   image [N, C, H, W], offset [N, G * K * 2, A, E] (y before x, in pixels), mask [N, G * K, A, E],
//   columns [N, C * K, A * E]
#pragma once

#include <ATen/ATen.h>

#include "shapes.h"

#define DECLARE_KERNELS(device)                                                                                       \
  namespace device {                                                                                                  \
  void attention_forward(const AttentionSizes& sizes, const at::Tensor& value, const at::Tensor& spatial_shapes,      \
                         const at::Tensor& level_starts, const at::Tensor& locations, const at::Tensor& weights,      \
                         at::Tensor& out);                                                                            \
  void attention_backward(const AttentionSizes& sizes, const at::Tensor& value, const at::Tensor& spatial_shapes,     \
                          const at::Tensor& level_starts, const at::Tensor& locations, const at::Tensor& weights,     \
                          const at::Tensor& grad_out, at::Tensor& grad_value, at::Tensor& grad_locations,             \
                          at::Tensor& grad_weights);                                                                  \
  void sample_forward(const SamplingSizes& sizes, const at::Tensor& image, const at::Tensor& offset,                  \
                      const at::Tensor& mask, at::Tensor& columns);                                                   \
  void sample_backward(const SamplingSizes& sizes, const at::Tensor& image, const at::Tensor& offset,                 \
                       const at::Tensor& mask, const at::Tensor& grad_columns, at::Tensor& grad_image,                \
                       at::Tensor& grad_offset, at::Tensor& grad_mask);                                               \
  }

DECLARE_KERNELS(cpu)
#ifdef WITH_CUDA
DECLARE_KERNELS(cuda)
#endif

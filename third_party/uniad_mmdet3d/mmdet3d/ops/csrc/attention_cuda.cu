// Multi-scale deformable attention on the GPU.
#include <ATen/Dispatch.h>
#include <ATen/cuda/Atomic.cuh>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "bilinear.h"
#include "kernels.h"

namespace {

constexpr int THREADS = 256;
constexpr int LANES = 32;
constexpr int64_t MOST_BLOCKS = 1 << 20;  // a thread goes on to the next piece of work beyond that

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(std::min((threads + THREADS - 1) / THREADS, MOST_BLOCKS));
}

template <typename scalar>
__device__ __forceinline__ Corners<scalar> corners_at(const scalar* location, int64_t height, int64_t width) {
  return corners_of<scalar>(location[0] * width - scalar(0.5), location[1] * height - scalar(0.5), height, width);
}

// First channel of a head's first key; keys lie heads * channels apart.
__device__ __forceinline__ int64_t head_start(const AttentionSizes& sizes, int64_t row) {
  const int64_t batch = row / (sizes.queries * sizes.heads);
  return (batch * sizes.keys * sizes.heads + row % sizes.heads) * sizes.channels;
}

// One thread per output number: neighbours read neighbouring channels of the same keys.
template <typename scalar>
__global__ void forward_kernel(AttentionSizes sizes, const scalar* value, const int64_t* shapes, const int64_t* starts,
                               const scalar* locations, const scalar* weights, scalar* out) {
  const int64_t total = sizes.batch * sizes.queries * sizes.heads * sizes.channels;
  const int64_t samples = sizes.levels * sizes.points;
  const int64_t stride = sizes.heads * sizes.channels;
  for (int64_t index = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; index < total; index += int64_t(blockDim.x) * gridDim.x) {
    const int64_t row = index / sizes.channels;
    const scalar* head = value + head_start(sizes, row) + index % sizes.channels;
    scalar sum = 0;
    for (int64_t sample = 0; sample < samples; ++sample) {
      const int64_t level = sample / sizes.points;
      const int64_t at = row * samples + sample;
      const auto corners = corners_at(locations + 2 * at, shapes[2 * level], shapes[2 * level + 1]);
      scalar seen = 0;
      for (int corner = 0; corner < 4; ++corner) {
        if (corners.weight[corner] != 0) seen += corners.weight[corner] * head[(starts[level] + corners.place[corner]) * stride];
      }
      sum += weights[at] * seen;
    }
    out[index] = sum;
  }
}

// One warp per head of a query: its lanes share the channels and add up what the location and the weight get.
template <typename scalar>
__global__ void backward_kernel(AttentionSizes sizes, const scalar* value, const int64_t* shapes, const int64_t* starts,
                                const scalar* locations, const scalar* weights, const scalar* grad_out,
                                scalar* grad_value, scalar* grad_locations, scalar* grad_weights) {
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  const int64_t samples = sizes.levels * sizes.points;
  const int64_t stride = sizes.heads * sizes.channels;
  const int lane = threadIdx.x % LANES;
  const int64_t warps = int64_t(blockDim.x) * gridDim.x / LANES;
  for (int64_t row = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / LANES; row < rows; row += warps) {
    const int64_t start = head_start(sizes, row);
    for (int64_t sample = 0; sample < samples; ++sample) {
      const int64_t level = sample / sizes.points;
      const int64_t height = shapes[2 * level];
      const int64_t width = shapes[2 * level + 1];
      const int64_t at = row * samples + sample;
      const auto corners = corners_at(locations + 2 * at, height, width);
      const scalar strength = weights[at];
      scalar by_weight = 0, by_x = 0, by_y = 0;
      for (int corner = 0; corner < 4; ++corner) {
        if (corners.by_x[corner] == 0 && corners.by_y[corner] == 0) continue;
        const int64_t key = start + (starts[level] + corners.place[corner]) * stride;
        scalar along = 0;
        for (int64_t channel = lane; channel < sizes.channels; channel += LANES) {
          const scalar grad = grad_out[row * sizes.channels + channel];
          along += grad * value[key + channel];
          gpuAtomicAdd(grad_value + key + channel, corners.weight[corner] * strength * grad);
        }
        by_weight += corners.weight[corner] * along;
        by_x += corners.by_x[corner] * along;
        by_y += corners.by_y[corner] * along;
      }
      for (int step = LANES / 2; step > 0; step /= 2) {
        by_weight += __shfl_down_sync(0xffffffffu, by_weight, step);
        by_x += __shfl_down_sync(0xffffffffu, by_x, step);
        by_y += __shfl_down_sync(0xffffffffu, by_y, step);
      }
      if (lane == 0) {
        grad_weights[at] = by_weight;
        grad_locations[2 * at] = by_x * strength * width;
        grad_locations[2 * at + 1] = by_y * strength * height;
      }
    }
  }
}

}  // namespace

namespace cuda {

void attention_forward(const AttentionSizes& sizes, const at::Tensor& value, const at::Tensor& spatial_shapes,
                       const at::Tensor& level_starts, const at::Tensor& locations, const at::Tensor& weights,
                       at::Tensor& out) {
  if (out.numel() == 0) return;
  const c10::cuda::CUDAGuard guard(value.device());
  AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "attention_forward", [&] {
    forward_kernel<scalar_t><<<blocks_for(out.numel()), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        sizes, value.data_ptr<scalar_t>(), spatial_shapes.data_ptr<int64_t>(), level_starts.data_ptr<int64_t>(),
        locations.data_ptr<scalar_t>(), weights.data_ptr<scalar_t>(), out.data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void attention_backward(const AttentionSizes& sizes, const at::Tensor& value, const at::Tensor& spatial_shapes,
                        const at::Tensor& level_starts, const at::Tensor& locations, const at::Tensor& weights,
                        const at::Tensor& grad_out, at::Tensor& grad_value, at::Tensor& grad_locations,
                        at::Tensor& grad_weights) {
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  if (rows == 0) return;
  const c10::cuda::CUDAGuard guard(value.device());
  AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "attention_backward", [&] {
    backward_kernel<scalar_t><<<blocks_for(rows * LANES), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        sizes, value.data_ptr<scalar_t>(), spatial_shapes.data_ptr<int64_t>(), level_starts.data_ptr<int64_t>(),
        locations.data_ptr<scalar_t>(), weights.data_ptr<scalar_t>(), grad_out.data_ptr<scalar_t>(),
        grad_value.data_ptr<scalar_t>(), grad_locations.data_ptr<scalar_t>(), grad_weights.data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace cuda

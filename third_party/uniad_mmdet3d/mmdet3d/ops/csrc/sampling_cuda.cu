// Sampling for modulated deformable convolution, on the GPU.
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
constexpr int64_t MOST_BLOCKS = 1 << 20;  // a thread goes on to the next piece of work beyond that

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(std::min((threads + THREADS - 1) / THREADS, MOST_BLOCKS));
}

// The corners that tap `plane % taps` of an output pixel samples. A plane is one tap of one offset group of one image.
template <typename scalar>
__device__ __forceinline__ Corners<scalar> corners_of_tap(const SamplingSizes& sizes, const scalar* offset, int64_t plane,
                                                          int64_t at) {
  const int64_t tap = plane % sizes.taps();
  const int64_t row = at / sizes.out_width;
  const int64_t column = at % sizes.out_width;
  const int64_t y = row * sizes.stride_y - sizes.pad_y + tap / sizes.kernel_width * sizes.dilation_y;
  const int64_t x = column * sizes.stride_x - sizes.pad_x + tap % sizes.kernel_width * sizes.dilation_x;
  const scalar shift_y = offset[2 * plane * sizes.out_area() + at];
  const scalar shift_x = offset[(2 * plane + 1) * sizes.out_area() + at];
  return corners_of<scalar>(x + shift_x, y + shift_y, sizes.height, sizes.width);
}

// One thread per channel and output pixel, over all taps.
template <typename scalar>
__global__ void forward_kernel(SamplingSizes sizes, const scalar* image, const scalar* offset, const scalar* mask,
                               scalar* columns) {
  const int64_t total = sizes.images * sizes.channels * sizes.out_area();
  const int64_t members = sizes.channels / sizes.groups;
  for (int64_t index = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; index < total; index += int64_t(blockDim.x) * gridDim.x) {
    const int64_t at = index % sizes.out_area();
    const int64_t channel = index / sizes.out_area();  // counted over all images
    const scalar* pixels = image + channel * sizes.area();
    for (int64_t tap = 0; tap < sizes.taps(); ++tap) {
      const int64_t plane = channel / members * sizes.taps() + tap;
      const auto corners = corners_of_tap(sizes, offset, plane, at);
      scalar sum = 0;
      for (int corner = 0; corner < 4; ++corner) sum += corners.weight[corner] * pixels[corners.place[corner]];
      columns[(channel * sizes.taps() + tap) * sizes.out_area() + at] = mask[plane * sizes.out_area() + at] * sum;
    }
  }
}

// One thread per tap and output pixel: it goes through the channels that share the sampling point.
template <typename scalar>
__global__ void backward_kernel(SamplingSizes sizes, const scalar* image, const scalar* offset, const scalar* mask,
                                const scalar* grad_columns, scalar* grad_image, scalar* grad_offset, scalar* grad_mask) {
  const int64_t total = sizes.images * sizes.groups * sizes.taps() * sizes.out_area();
  const int64_t members = sizes.channels / sizes.groups;
  for (int64_t index = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; index < total; index += int64_t(blockDim.x) * gridDim.x) {
    const int64_t at = index % sizes.out_area();
    const int64_t plane = index / sizes.out_area();
    const auto corners = corners_of_tap(sizes, offset, plane, at);
    const scalar strength = mask[index];
    scalar by_mask = 0, by_x = 0, by_y = 0;
    for (int64_t member = 0; member < members; ++member) {
      const int64_t channel = plane / sizes.taps() * members + member;
      const scalar* pixels = image + channel * sizes.area();
      scalar* grad_pixels = grad_image + channel * sizes.area();
      const scalar grad = grad_columns[(channel * sizes.taps() + plane % sizes.taps()) * sizes.out_area() + at];
      for (int corner = 0; corner < 4; ++corner) {
        if (corners.by_x[corner] == 0 && corners.by_y[corner] == 0) continue;
        const scalar along = grad * pixels[corners.place[corner]];
        by_mask += corners.weight[corner] * along;
        by_x += corners.by_x[corner] * along;
        by_y += corners.by_y[corner] * along;
        gpuAtomicAdd(grad_pixels + corners.place[corner], corners.weight[corner] * strength * grad);
      }
    }
    grad_mask[index] = by_mask;
    grad_offset[2 * plane * sizes.out_area() + at] = by_y * strength;
    grad_offset[(2 * plane + 1) * sizes.out_area() + at] = by_x * strength;
  }
}

}  // namespace

namespace cuda {

void sample_forward(const SamplingSizes& sizes, const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                    at::Tensor& columns) {
  const int64_t threads = sizes.images * sizes.channels * sizes.out_area();
  if (threads == 0) return;
  const c10::cuda::CUDAGuard guard(image.device());
  AT_DISPATCH_FLOATING_TYPES(image.scalar_type(), "sample_forward", [&] {
    forward_kernel<scalar_t><<<blocks_for(threads), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        sizes, image.data_ptr<scalar_t>(), offset.data_ptr<scalar_t>(), mask.data_ptr<scalar_t>(),
        columns.data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void sample_backward(const SamplingSizes& sizes, const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                     const at::Tensor& grad_columns, at::Tensor& grad_image, at::Tensor& grad_offset,
                     at::Tensor& grad_mask) {
  if (grad_mask.numel() == 0) return;
  const c10::cuda::CUDAGuard guard(image.device());
  AT_DISPATCH_FLOATING_TYPES(image.scalar_type(), "sample_backward", [&] {
    backward_kernel<scalar_t><<<blocks_for(grad_mask.numel()), THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
        sizes, image.data_ptr<scalar_t>(), offset.data_ptr<scalar_t>(), mask.data_ptr<scalar_t>(),
        grad_columns.data_ptr<scalar_t>(), grad_image.data_ptr<scalar_t>(), grad_offset.data_ptr<scalar_t>(),
        grad_mask.data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace cuda

// The Python module: checks its arguments, makes the results and hands both to the kernels of the device.
#include <torch/extension.h>

#include <vector>

#include "kernels.h"

namespace {

void check(const at::Tensor& tensor, const at::Tensor& like, const char* name, at::IntArrayRef sizes) {
  TORCH_CHECK(tensor.device() == like.device(), name, " is on ", tensor.device(), ", the others on ", like.device());
  TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), name, " is ", tensor.scalar_type(), ", the others are ",
              like.scalar_type());
  TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
  TORCH_CHECK(tensor.sizes() == sizes, name, " has the shape ", tensor.sizes(), ", not ", sizes);
}

bool on_gpu(const at::Tensor& tensor) {
  if (!tensor.is_cuda()) {
    TORCH_CHECK(tensor.device().is_cpu(), "no kernels for ", tensor.device());
    return false;
  }
#ifndef WITH_CUDA
  TORCH_CHECK(false, "mmdet3d.ops was built without CUDA: build it again where nvcc is, with FORCE_CUDA=1");
#endif
  return true;
}

#ifdef WITH_CUDA
#define ON_DEVICE(tensor, call)  \
  do {                           \
    if (on_gpu(tensor)) {        \
      cuda::call;                \
    } else {                     \
      cpu::call;                 \
    }                            \
  } while (false)
#else
#define ON_DEVICE(tensor, call)  \
  do {                           \
    on_gpu(tensor);              \
    cpu::call;                   \
  } while (false)
#endif

AttentionSizes attention_sizes(const at::Tensor& value, const at::Tensor& spatial_shapes, const at::Tensor& level_starts,
                               const at::Tensor& locations, const at::Tensor& weights) {
  TORCH_CHECK(value.dim() == 4 && value.is_contiguous(), "value is not a contiguous [batch, keys, heads, channels]");
  TORCH_CHECK(locations.dim() == 6, "locations are not [batch, queries, heads, levels, points, 2]");
  const AttentionSizes sizes{value.size(0),     value.size(1),          value.size(2),    value.size(3),
                             locations.size(1), spatial_shapes.size(0), locations.size(4)};
  check(locations, value, "locations", {sizes.batch, sizes.queries, sizes.heads, sizes.levels, sizes.points, 2});
  check(weights, value, "weights", {sizes.batch, sizes.queries, sizes.heads, sizes.levels, sizes.points});
  check(spatial_shapes, level_starts, "spatial_shapes", {sizes.levels, 2});
  TORCH_CHECK(spatial_shapes.scalar_type() == at::kLong && level_starts.device() == value.device() &&
                  level_starts.is_contiguous() && level_starts.numel() == sizes.levels,
              "spatial_shapes and level_starts are int64, one per level, beside value");
  return sizes;
}

at::Tensor attention_forward(const at::Tensor& value, const at::Tensor& spatial_shapes, const at::Tensor& level_starts,
                             const at::Tensor& locations, const at::Tensor& weights) {
  const AttentionSizes sizes = attention_sizes(value, spatial_shapes, level_starts, locations, weights);
  at::Tensor out = at::empty({sizes.batch, sizes.queries, sizes.heads * sizes.channels}, value.options());
  ON_DEVICE(value, attention_forward(sizes, value, spatial_shapes, level_starts, locations, weights, out));
  return out;
}

std::vector<at::Tensor> attention_backward(const at::Tensor& value, const at::Tensor& spatial_shapes,
                                           const at::Tensor& level_starts, const at::Tensor& locations,
                                           const at::Tensor& weights, const at::Tensor& grad_out) {
  const AttentionSizes sizes = attention_sizes(value, spatial_shapes, level_starts, locations, weights);
  check(grad_out, value, "grad_out", {sizes.batch, sizes.queries, sizes.heads * sizes.channels});
  at::Tensor grad_value = at::zeros_like(value);
  at::Tensor grad_locations = at::empty_like(locations);
  at::Tensor grad_weights = at::empty_like(weights);
  ON_DEVICE(value, attention_backward(sizes, value, spatial_shapes, level_starts, locations, weights, grad_out, grad_value,
                                      grad_locations, grad_weights));
  return {grad_value, grad_locations, grad_weights};
}

SamplingSizes sampling_sizes(const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                             const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                             const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  TORCH_CHECK(image.dim() == 4 && image.is_contiguous(), "image is not a contiguous [images, channels, height, width]");
  TORCH_CHECK(kernel.size() == 2 && stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
              "kernel, stride, padding and dilation are pairs");
  TORCH_CHECK(groups > 0 && image.size(1) % groups == 0, image.size(1), " channels do not divide into ", groups, " groups");
  SamplingSizes sizes{};
  sizes.images = image.size(0);
  sizes.channels = image.size(1);
  sizes.groups = groups;
  sizes.height = image.size(2);
  sizes.width = image.size(3);
  sizes.kernel_height = kernel[0];
  sizes.kernel_width = kernel[1];
  sizes.stride_y = stride[0];
  sizes.stride_x = stride[1];
  sizes.pad_y = padding[0];
  sizes.pad_x = padding[1];
  sizes.dilation_y = dilation[0];
  sizes.dilation_x = dilation[1];
  sizes.out_height = (sizes.height + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) / stride[0] + 1;
  sizes.out_width = (sizes.width + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1) / stride[1] + 1;
  const int64_t taps = groups * sizes.taps();
  check(offset, image, "offset", {sizes.images, taps * 2, sizes.out_height, sizes.out_width});
  check(mask, image, "mask", {sizes.images, taps, sizes.out_height, sizes.out_width});
  return sizes;
}

at::Tensor sample_forward(const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                          const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                          const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  const SamplingSizes sizes = sampling_sizes(image, offset, mask, kernel, stride, padding, dilation, groups);
  at::Tensor columns = at::empty({sizes.images, sizes.channels * sizes.taps(), sizes.out_area()}, image.options());
  ON_DEVICE(image, sample_forward(sizes, image, offset, mask, columns));
  return columns;
}

std::vector<at::Tensor> sample_backward(const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                                        const at::Tensor& grad_columns, const std::vector<int64_t>& kernel,
                                        const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                        const std::vector<int64_t>& dilation, int64_t groups) {
  const SamplingSizes sizes = sampling_sizes(image, offset, mask, kernel, stride, padding, dilation, groups);
  check(grad_columns, image, "grad_columns", {sizes.images, sizes.channels * sizes.taps(), sizes.out_area()});
  at::Tensor grad_image = at::zeros_like(image);
  at::Tensor grad_offset = at::empty_like(offset);
  at::Tensor grad_mask = at::empty_like(mask);
  ON_DEVICE(image, sample_backward(sizes, image, offset, mask, grad_columns, grad_image, grad_offset, grad_mask));
  return {grad_image, grad_offset, grad_mask};
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("attention_forward", &attention_forward);
  module.def("attention_backward", &attention_backward);
  module.def("sample_forward", &sample_forward);
  module.def("sample_backward", &sample_backward);
#ifdef WITH_CUDA
  module.attr("with_cuda") = true;
#else
  module.attr("with_cuda") = false;
#endif
}

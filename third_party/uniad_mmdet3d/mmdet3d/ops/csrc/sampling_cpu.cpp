// Sampling for modulated deformable convolution, on the CPU.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "bilinear.h"
#include "kernels.h"

namespace {

// Where tap `tap` of output pixel (row, column) would sample without an offset.
struct Tap {
  int64_t y, x;

  Tap(const SamplingSizes& sizes, int64_t tap, int64_t row, int64_t column)
      : y(row * sizes.stride_y - sizes.pad_y + tap / sizes.kernel_width * sizes.dilation_y),
        x(column * sizes.stride_x - sizes.pad_x + tap % sizes.kernel_width * sizes.dilation_x) {}
};

}  // namespace

namespace cpu {

void sample_forward(const SamplingSizes& sizes, const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                    at::Tensor& columns) {
  const int64_t taps = sizes.taps();
  const int64_t out_area = sizes.out_area();
  const int64_t members = sizes.channels / sizes.groups;
  AT_DISPATCH_FLOATING_TYPES(image.scalar_type(), "sample_forward", [&] {
    const scalar_t* pixels = image.data_ptr<scalar_t>();
    const scalar_t* offsets = offset.data_ptr<scalar_t>();
    const scalar_t* masks = mask.data_ptr<scalar_t>();
    scalar_t* results = columns.data_ptr<scalar_t>();
    // A plane is one tap of one offset group of one image: its channels share the sampling points
    at::parallel_for(0, sizes.images * sizes.groups * taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const int64_t tap = plane % taps;
        const int64_t first = plane / taps * members;  // channel, counted over all images
        const scalar_t* shift_y = offsets + 2 * plane * out_area;
        const scalar_t* shift_x = shift_y + out_area;
        for (int64_t at = 0; at < out_area; ++at) {
          const Tap origin(sizes, tap, at / sizes.out_width, at % sizes.out_width);
          const auto corners =
              corners_of<scalar_t>(origin.x + shift_x[at], origin.y + shift_y[at], sizes.height, sizes.width);
          const scalar_t strength = masks[plane * out_area + at];
          for (int64_t member = 0; member < members; ++member) {
            const scalar_t* channel = pixels + (first + member) * sizes.area();
            scalar_t sum = 0;
            for (int corner = 0; corner < 4; ++corner) sum += corners.weight[corner] * channel[corners.place[corner]];
            results[((first + member) * taps + tap) * out_area + at] = strength * sum;
          }
        }
      }
    });
  });
}

void sample_backward(const SamplingSizes& sizes, const at::Tensor& image, const at::Tensor& offset, const at::Tensor& mask,
                     const at::Tensor& grad_columns, at::Tensor& grad_image, at::Tensor& grad_offset,
                     at::Tensor& grad_mask) {
  const int64_t taps = sizes.taps();
  const int64_t out_area = sizes.out_area();
  const int64_t members = sizes.channels / sizes.groups;
  AT_DISPATCH_FLOATING_TYPES(image.scalar_type(), "sample_backward", [&] {
    const scalar_t* pixels = image.data_ptr<scalar_t>();
    const scalar_t* offsets = offset.data_ptr<scalar_t>();
    const scalar_t* masks = mask.data_ptr<scalar_t>();
    const scalar_t* grads = grad_columns.data_ptr<scalar_t>();
    scalar_t* grad_pixels = grad_image.data_ptr<scalar_t>();
    scalar_t* grad_offsets = grad_offset.data_ptr<scalar_t>();
    scalar_t* grad_masks = grad_mask.data_ptr<scalar_t>();
    // The points of a tap: no two planes write the same gradient
    at::parallel_for(0, sizes.images * sizes.groups * taps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const int64_t tap = plane % taps;
        const int64_t first = plane / taps * members;
        const scalar_t* shift_y = offsets + 2 * plane * out_area;
        const scalar_t* shift_x = shift_y + out_area;
        for (int64_t at = 0; at < out_area; ++at) {
          const Tap origin(sizes, tap, at / sizes.out_width, at % sizes.out_width);
          const auto corners =
              corners_of<scalar_t>(origin.x + shift_x[at], origin.y + shift_y[at], sizes.height, sizes.width);
          scalar_t by_mask = 0, by_x = 0, by_y = 0;
          for (int64_t member = 0; member < members; ++member) {
            const scalar_t* channel = pixels + (first + member) * sizes.area();
            const scalar_t grad = grads[((first + member) * taps + tap) * out_area + at];
            for (int corner = 0; corner < 4; ++corner) {
              const scalar_t along = grad * channel[corners.place[corner]];
              by_mask += corners.weight[corner] * along;
              by_x += corners.by_x[corner] * along;
              by_y += corners.by_y[corner] * along;
            }
          }
          const scalar_t strength = masks[plane * out_area + at];
          grad_masks[plane * out_area + at] = by_mask;
          grad_offsets[2 * plane * out_area + at] = by_y * strength;
          grad_offsets[(2 * plane + 1) * out_area + at] = by_x * strength;
        }
      }
    });
    // The pixels: taps add to the same ones, so a thread takes a whole channel
    at::parallel_for(0, sizes.images * sizes.channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) {
        const int64_t group = channel / members;  // counted over all images
        scalar_t* grad_channel = grad_pixels + channel * sizes.area();
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t plane = group * taps + tap;
          const scalar_t* shift_y = offsets + 2 * plane * out_area;
          const scalar_t* shift_x = shift_y + out_area;
          for (int64_t at = 0; at < out_area; ++at) {
            const Tap origin(sizes, tap, at / sizes.out_width, at % sizes.out_width);
            const auto corners =
                corners_of<scalar_t>(origin.x + shift_x[at], origin.y + shift_y[at], sizes.height, sizes.width);
            const scalar_t grad = grads[(channel * taps + tap) * out_area + at] * masks[plane * out_area + at];
            for (int corner = 0; corner < 4; ++corner) {
              grad_channel[corners.place[corner]] += corners.weight[corner] * grad;
            }
          }
        }
      }
    });
  });
}

}  // namespace cpu

// Multi-scale deformable attention on the CPU.
#include <ATen/Dispatch.h>
#include <algorithm>
#include <ATen/Parallel.h>

#include "bilinear.h"
#include "kernels.h"

namespace {

// One head of one batch entry: where its keys start, and how far one key is from the next.
template <typename scalar>
struct Head {
  scalar* keys;
  int64_t stride;

  Head(scalar* value, const AttentionSizes& sizes, int64_t batch, int64_t head)
      : keys(value + (batch * sizes.keys * sizes.heads + head) * sizes.channels), stride(sizes.heads * sizes.channels) {}

  scalar* key(int64_t place) const { return keys + place * stride; }
};

// The corners round one sampling point. Level sizes span the pixels' outer edges, hence the half.
template <typename scalar>
Corners<scalar> corners_at(const scalar* location, int64_t height, int64_t width) {
  return corners_of<scalar>(location[0] * width - scalar(0.5), location[1] * height - scalar(0.5), height, width);
}

}  // namespace

namespace cpu {

void attention_forward(const AttentionSizes& sizes, const at::Tensor& value, const at::Tensor& spatial_shapes,
                       const at::Tensor& level_starts, const at::Tensor& locations, const at::Tensor& weights,
                       at::Tensor& out) {
  const int64_t* shapes = spatial_shapes.data_ptr<int64_t>();
  const int64_t* starts = level_starts.data_ptr<int64_t>();
  const int64_t samples = sizes.levels * sizes.points;
  AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "attention_forward", [&] {
    scalar_t* values = value.data_ptr<scalar_t>();
    const scalar_t* all_locations = locations.data_ptr<scalar_t>();
    const scalar_t* all_weights = weights.data_ptr<scalar_t>();
    scalar_t* outs = out.data_ptr<scalar_t>();
    // A row is one head of one query
    const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
    at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const Head<scalar_t> head(values, sizes, row / (sizes.queries * sizes.heads), row % sizes.heads);
        scalar_t* result = outs + row * sizes.channels;
        std::fill(result, result + sizes.channels, scalar_t(0));
        for (int64_t sample = 0; sample < samples; ++sample) {
          const int64_t level = sample / sizes.points;
          const int64_t at = row * samples + sample;
          const auto corners = corners_at(all_locations + 2 * at, shapes[2 * level], shapes[2 * level + 1]);
          for (int corner = 0; corner < 4; ++corner) {
            const scalar_t weight = corners.weight[corner] * all_weights[at];
            if (weight == 0) continue;
            const scalar_t* key = head.key(starts[level] + corners.place[corner]);
            for (int64_t channel = 0; channel < sizes.channels; ++channel) result[channel] += weight * key[channel];
          }
        }
      }
    });
  });
}

void attention_backward(const AttentionSizes& sizes, const at::Tensor& value, const at::Tensor& spatial_shapes,
                        const at::Tensor& level_starts, const at::Tensor& locations, const at::Tensor& weights,
                        const at::Tensor& grad_out, at::Tensor& grad_value, at::Tensor& grad_locations,
                        at::Tensor& grad_weights) {
  const int64_t* shapes = spatial_shapes.data_ptr<int64_t>();
  const int64_t* starts = level_starts.data_ptr<int64_t>();
  const int64_t samples = sizes.levels * sizes.points;
  AT_DISPATCH_FLOATING_TYPES(value.scalar_type(), "attention_backward", [&] {
    scalar_t* values = value.data_ptr<scalar_t>();
    const scalar_t* all_locations = locations.data_ptr<scalar_t>();
    const scalar_t* all_weights = weights.data_ptr<scalar_t>();
    const scalar_t* grad_outs = grad_out.data_ptr<scalar_t>();
    scalar_t* grad_values = grad_value.data_ptr<scalar_t>();
    scalar_t* grad_all_locations = grad_locations.data_ptr<scalar_t>();
    scalar_t* grad_all_weights = grad_weights.data_ptr<scalar_t>();
    // Queries of one head add to the same keys, heads never do: one thread takes a whole head
    at::parallel_for(0, sizes.batch * sizes.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t batch_head = begin; batch_head < end; ++batch_head) {
        const int64_t batch = batch_head / sizes.heads;
        const int64_t head_index = batch_head % sizes.heads;
        const Head<scalar_t> head(values, sizes, batch, head_index);
        const Head<scalar_t> grad_head(grad_values, sizes, batch, head_index);
        for (int64_t query = 0; query < sizes.queries; ++query) {
          const int64_t row = (batch * sizes.queries + query) * sizes.heads + head_index;
          const scalar_t* grad = grad_outs + row * sizes.channels;
          for (int64_t sample = 0; sample < samples; ++sample) {
            const int64_t level = sample / sizes.points;
            const int64_t height = shapes[2 * level];
            const int64_t width = shapes[2 * level + 1];
            const int64_t at = row * samples + sample;
            const auto corners = corners_at(all_locations + 2 * at, height, width);
            scalar_t by_weight = 0, by_x = 0, by_y = 0;
            for (int corner = 0; corner < 4; ++corner) {
              // A corner inside always has a slope, even where its weight is 0
              if (corners.by_x[corner] == 0 && corners.by_y[corner] == 0) continue;
              const int64_t place = starts[level] + corners.place[corner];
              const scalar_t* key = head.key(place);
              scalar_t* grad_key = grad_head.key(place);
              const scalar_t weight = corners.weight[corner] * all_weights[at];
              scalar_t along = 0;
              for (int64_t channel = 0; channel < sizes.channels; ++channel) {
                along += grad[channel] * key[channel];
                grad_key[channel] += weight * grad[channel];
              }
              by_weight += corners.weight[corner] * along;
              by_x += corners.by_x[corner] * along;
              by_y += corners.by_y[corner] * along;
            }
            grad_all_weights[at] = by_weight;
            grad_all_locations[2 * at] = by_x * all_weights[at] * width;
            grad_all_locations[2 * at + 1] = by_y * all_weights[at] * height;
          }
        }
      }
    });
  });
}

}  // namespace cpu

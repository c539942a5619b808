// Bilinear sampling of a plane, with zeros outside: shared by all kernels, on the CPU and on the GPU.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define SHARED_CODE __host__ __device__ __forceinline__
#else
#define SHARED_CODE inline  // no device here
#endif

// The four pixels round a point (x, y), as places in a row-major H x W plane, and how much each counts.
// A pixel outside the plane has weight 0 and place 0, so that it can be read.
template <typename scalar>
struct Corners {
  int64_t place[4];
  scalar weight[4];
  // Derivatives of the weights by x and y, in pixels
  scalar by_x[4];
  scalar by_y[4];
};

template <typename scalar>
SHARED_CODE Corners<scalar> corners_of(scalar x, scalar y, int64_t height, int64_t width) {
  Corners<scalar> corners;
  // Far points are all zero; leaving early keeps the conversion to an integer defined
  const bool near = x > -1 && y > -1 && x < static_cast<scalar>(width) && y < static_cast<scalar>(height);
  const int64_t left = near ? static_cast<int64_t>(floor(x)) : -2;
  const int64_t top = near ? static_cast<int64_t>(floor(y)) : -2;
  const scalar right_share = near ? x - static_cast<scalar>(left) : 0;
  const scalar bottom_share = near ? y - static_cast<scalar>(top) : 0;
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t column = left + (corner & 1);
    const int64_t row = top + (corner >> 1);
    const bool inside = column >= 0 && row >= 0 && column < width && row < height;
    const scalar share_x = (corner & 1) ? right_share : 1 - right_share;
    const scalar share_y = (corner >> 1) ? bottom_share : 1 - bottom_share;
    const scalar toward_x = (corner & 1) ? 1 : -1;
    const scalar toward_y = (corner >> 1) ? 1 : -1;
    corners.place[corner] = inside ? row * width + column : 0;
    corners.weight[corner] = inside ? share_x * share_y : 0;
    corners.by_x[corner] = inside ? toward_x * share_y : 0;
    corners.by_y[corner] = inside ? toward_y * share_x : 0;
  }
  return corners;
}

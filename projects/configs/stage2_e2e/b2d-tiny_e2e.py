# UniAD-tiny of Bench2Drive, stage 2: what differs from its base.
_base_ = ["./b2d-base_e2e.py"]

bev_h_ = 100
bev_w_ = 100
bev_size = (bev_h_, bev_w_)
canvas_size = (2 * bev_h_, 2 * bev_w_)
model = dict(
    prev_frame_num=10,  # at inference the previous BEV is that of half a second ago at 20 Hz
    img_backbone={{_base_._b2d_.tiny.img_backbone}},
    pts_bbox_head={{_base_._b2d_.tiny.pts_bbox_head}},
    seg_head={{_base_._b2d_.tiny.seg_head}},
    # Upstream says which classes are vehicles in the model of tiny, not in its motion head, which then keeps nuScenes' numbers:
    # signs, lights and pedestrians are vehicles to occupancy, traffic cones are not.
    motion_head=dict(vehicle_id_list=[0, 1, 2, 3, 4, 6, 7]),
)
data = dict(train=dict(bev_size=bev_size), val=dict(bev_size=bev_size), test=dict(bev_size=bev_size))
total_epochs = 1
runner = dict(max_epochs=total_epochs)
evaluation = dict(interval=1)
load_from = "ckpts/b2d-tiny_track_map.pth"

# Stage 2: motion, occupancy and planning on top of a trained stage 1, with the values of the full model.
#
# What sees the images is frozen; the clip is shorter because four more heads need the memory.
_base_ = ["../stage1_track_map/base_track_map.py"]

point_cloud_range = {{_base_.point_cloud_range}}
_dim_ = 256
_ffn_dim_ = 2 * _dim_
bev_h_ = 200
bev_w_ = 200
queue_length = 3
predict_steps = 12
predict_modes = 6
planning_steps = 6
use_nonlinear_optimizer = True

vehicle_id_list = [0, 1, 2, 3, 4, 6, 7]
# Classes that share motion anchors: vehicles, two-wheelers, pedestrians, things that do not move
group_id_list = [[0, 1, 2, 3, 4], [6, 7], [8], [5, 9]]

model = dict(
    queue_length=queue_length,
    vehicle_id_list=vehicle_id_list,
    freeze_img_backbone=True, freeze_img_neck=True, freeze_bn=True, freeze_bev_encoder=True,
    loss_cfg=dict(loss_past_traj_weight=1.0),
    occ_head=dict(
        type="OccHead",
        grid_conf={{_base_.occflow_grid_conf}},
        ignore_index=255,
        bev_proj_dim=_dim_,
        bev_proj_nlayers=4,
        bev_size=(bev_h_, bev_w_),
        bevslicer=True,  # cut the occupancy grid out of the BEV
        attn_mask_thresh=0.3,
        transformer_decoder=dict(
            type="DetrTransformerDecoder",
            return_intermediate=True,
            num_layers=5,  # one per predicted frame
            transformerlayers=dict(
                type="DetrTransformerDecoderLayer",
                attn_cfgs=dict(
                    type="MultiheadAttention", embed_dims=_dim_, num_heads=8,
                    attn_drop=0.0, proj_drop=0.0, dropout_layer=None, batch_first=False,
                ),
                ffn_cfgs=dict(
                    embed_dims=_dim_, feedforward_channels=2048, num_fcs=2, act_cfg=dict(type="ReLU", inplace=True),
                    ffn_drop=0.0, dropout_layer=None, add_identity=True,
                ),
                feedforward_channels=2048,
                operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
            ),
            init_cfg=None,
        ),
        query_dim=_dim_,
        query_mlp_layers=3,
        aux_loss_weight=1.0,
        loss_mask=dict(
            type="FieryBinarySegmentationLoss", loss_weight=5.0, ignore_index=255,
            use_top_k=True, top_k_ratio=0.25, future_discount=0.95,
        ),
        loss_dice=dict(
            type="DiceLossWithMasks", loss_weight=1.0, ignore_index=255,
            use_sigmoid=True, activate=True, reduction="mean", naive_dice=True, eps=1.0,
        ),
        pan_eval=True,
        test_seg_thresh=0.1,
        test_with_track_score=True,
    ),
    motion_head=dict(
        type="MotionHead",
        bev_h=bev_h_, bev_w=bev_w_,
        num_query=300, num_classes=10,
        predict_steps=predict_steps, predict_modes=predict_modes,
        embed_dims=_dim_,
        loss_traj=dict(
            type="TrajLoss", use_variance=True,
            cls_loss_weight=0.5, nll_loss_weight=0.5, loss_weight_minade=0.0, loss_weight_minfde=0.25,
        ),
        num_cls_fcs=3,
        pc_range=point_cloud_range,
        group_id_list=group_id_list,
        num_anchor=predict_modes,
        use_nonlinear_optimizer=use_nonlinear_optimizer,
        anchor_info_path={{_base_.anchor_info_path}},
        transformerlayers=dict(
            type="MotionTransformerDecoder",
            pc_range=point_cloud_range,
            embed_dims=_dim_,
            num_layers=3,
            transformerlayers=dict(
                type="MotionTransformerAttentionLayer",
                batch_first=True,
                attn_cfgs=[
                    dict(
                        type="MotionDeformableAttention",
                        num_steps=predict_steps, embed_dims=_dim_,
                        num_levels=1, num_heads=8,
                        num_points=4, sample_index=-1,
                    )
                ],
                feedforward_channels=_ffn_dim_, ffn_dropout=0.1,
                operation_order=("cross_attn", "norm", "ffn", "norm"),
            ),
        ),
    ),
    planning_head=dict(
        type="PlanningHeadSingleMode",
        bev_h=bev_h_, bev_w=bev_w_,
        embed_dims=_dim_,
        planning_steps=planning_steps,
        loss_planning=dict(type="PlanningLoss"),
        # The ego box grown by delta metres must not touch another's: near misses cost less
        loss_collision=[
            dict(type="CollisionLoss", delta=0.0, weight=2.5),
            dict(type="CollisionLoss", delta=0.5, weight=1.0),
            dict(type="CollisionLoss", delta=1.0, weight=0.25),
        ],
        use_col_optim=True, planning_eval=True,
        with_adapter=True,
    ),
)
data = dict(
    train=dict(queue_length=queue_length),
    val=dict(eval_mod=["det", "map", "track", "motion"]),
    test=dict(eval_mod=["det", "map", "track", "motion"]),
)

total_epochs = 20
runner = dict(max_epochs=total_epochs)
evaluation = dict(interval=4)
load_from = "ckpts/full_track_map.pth"
